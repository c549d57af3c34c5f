// descheduler runs the real descheduler outside a pod: `descheduler [its own flags]`.
//
// In a pod it makes its way to Prometheus from the service account's token and CA, files at fixed places. Here its own
// function makes it from the environment: PROMETHEUS_TOKEN, PROMETHEUS_CA (a file). All else is as in its own main.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"sigs.k8s.io/descheduler/cmd/descheduler/app"
	"sigs.k8s.io/descheduler/cmd/descheduler/app/options"
	"sigs.k8s.io/descheduler/pkg/api/v1alpha2"
	"sigs.k8s.io/descheduler/pkg/descheduler"
	"sigs.k8s.io/descheduler/pkg/descheduler/client"
)

func main() {
	server, err := options.NewDeschedulerServer()
	check(err)
	klog.InitFlags(nil)
	pflag.CommandLine.AddGoFlagSet(flag.CommandLine)
	server.AddFlags(pflag.CommandLine)
	pflag.Parse()
	check(server.Apply())

	client.K8sPodCAFilePath = os.Getenv("PROMETHEUS_CA")
	server.PrometheusClient, _, err = client.CreatePrometheusClient(prometheus(server.PolicyConfigFile), os.Getenv("PROMETHEUS_TOKEN"))
	check(err)

	descheduler.SetupPlugins()
	check(app.Run(context.Background(), server))
	klog.Flush()
}

// prometheus is the address that the policy names.
func prometheus(file string) string {
	text, err := os.ReadFile(file)
	check(err)
	var policy v1alpha2.DeschedulerPolicy
	check(yaml.Unmarshal(text, &policy))
	return policy.MetricsProviders[0].Prometheus.URL
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

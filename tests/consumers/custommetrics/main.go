// custommetrics reads a metric of all nodes as Volcano's usage plugin does: Kubernetes' own client of the custom
// metrics API, with a cached REST mapper, version by discovery, root-scoped Nodes and empty selectors.
//
//	custommetrics KUBECONFIG METRIC
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/metrics/pkg/client/custom_metrics"
)

type reading struct {
	Node  string  `json:"node"`
	Value float64 `json:"value"`
	Time  int64   `json:"time"`
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fail(err)
	}
	discover, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		fail(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discover))
	versions := custom_metrics.NewAvailableAPIsGetter(discover)
	client := custom_metrics.NewForConfig(config, mapper, versions)
	list, err := client.RootScopedMetrics().GetForObjects(
		schema.GroupKind{Kind: "Node"}, labels.NewSelector(), os.Args[2], labels.NewSelector(),
	)
	if err != nil {
		fail(err)
	}
	readings := []reading{}
	for _, item := range list.Items {
		readings = append(readings, reading{
			item.DescribedObject.Name, item.Value.AsApproximateFloat64(), item.Timestamp.Unix(),
		})
	}
	if err := json.NewEncoder(os.Stdout).Encode(readings); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

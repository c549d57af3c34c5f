// Command volcano asks for the load of nodes by Volcano's own code, as its scheduler does once per interval: each line on
// the standard input is a round, and the answer a line of JSON.
//
//	volcano KUBECONFIG METRICS NODE...
//
// METRICS is the block `metrics` of the scheduler's configuration, as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"volcano.sh/volcano/pkg/scheduler/metrics/source"
)

// As the scheduler's cache has it.
const roundTimeout = 60 * time.Second

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kubeconfig, metrics string, nodes []string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	var settings map[string]string
	if err := json.Unmarshal([]byte(metrics), &settings); err != nil {
		return err
	}
	rounds := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for rounds.Scan() {
		// The scheduler makes a new client for each round too.
		client, err := source.NewMetricsClient(config, settings)
		if err != nil {
			return err
		}
		answer, err := ask(client, nodes)
		if err != nil {
			return err
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return rounds.Err()
}

func ask(client source.MetricsClient, nodes []string) (map[string]*source.NodeMetrics, error) {
	answer := make(map[string]*source.NodeMetrics, len(nodes))
	for _, node := range nodes {
		answer[node] = &source.NodeMetrics{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	return answer, client.NodesMetricsAvg(ctx, answer)
}

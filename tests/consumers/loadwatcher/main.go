// loadwatcher asks a watcher as Trimaran's plugins do, with load-watcher's own client, and prints what came of it.
//
//	loadwatcher http://host:port[/prefix]
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/paypal/load-watcher/pkg/watcher/api"
)

func main() {
	client, err := api.NewServiceClient(os.Args[1])
	if err != nil {
		fail(err)
	}
	metrics, err := client.GetLatestWatcherMetrics()
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(metrics); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

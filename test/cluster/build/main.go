// Command build builds the programs that test/cluster runs, or tells that they are there.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"vmfr/test/cluster"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, ok, err := cluster.Programs()
	if err == nil && !ok {
		log.Printf("building Kubernetes into %s: this takes some minutes, once", dir)
	}
	start := time.Now()
	if err == nil {
		dir, err = cluster.Build(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
	if !ok {
		log.Printf("built in %s", time.Since(start).Round(time.Second))
	}
	fmt.Println(dir)
}

// Command build builds the programs that test/cluster runs, or tells that they are there.
package main

import (
	"context"
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
	for _, m := range cluster.Modules {
		dir, ok, err := m.Programs()
		if err == nil && !ok {
			log.Printf("building %s into %s: this takes some minutes, once", m.Folder, dir)
		}
		start := time.Now()
		if err == nil {
			_, err = m.Build(ctx)
		}
		if err != nil {
			log.Fatal(err)
		}
		if !ok {
			log.Printf("built %s in %s", m.Folder, time.Since(start).Round(time.Second))
		}
	}
}

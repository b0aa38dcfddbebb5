// Command build builds the programs that test/cluster runs, or tells that they are there.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"vmfr/test/cluster"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, m := range cluster.Modules {
		dir, ok, err := m.Programs()
		switch {
		case err != nil:
			log.Fatal(err)
		case ok:
			log.Printf("%s: built already, in %s", m.Folder, dir)
			continue
		}
		log.Printf("%s: building into %s, which takes minutes once", m.Folder, dir)
		start := time.Now()
		if _, err := m.Build(ctx); err != nil {
			log.Fatal(err)
		}
		log.Printf("%s: built in %s", m.Folder, time.Since(start).Round(time.Second))
	}
}

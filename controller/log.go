package main

import (
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// install makes h the log of controller-runtime and of client-go, which writes through klog.
func install(h slog.Handler) logr.Logger {
	log := logr.FromSlogHandler(h)
	ctrl.SetLogger(log)
	klog.SetLogger(log.WithName("client-go"))
	return log
}

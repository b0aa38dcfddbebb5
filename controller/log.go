package main

import (
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// logFlags say how to log. Logs go to standard error.
type logFlags struct{ format, level string }

func (f *logFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.format, "log-format", "text", "format of the log on standard error: `text|json`")
	flags.StringVar(&f.level, "log-level", "info", "least level that is logged: `debug|info|warn|error`")
}

func (f *logFlags) handler(w io.Writer) (slog.Handler, error) {
	var level slog.Level
	switch f.level {
	case "debug", "info", "warn", "error":
		_ = level.UnmarshalText([]byte(f.level))
	default:
		return nil, usagef("--log-level %q: use debug, info, warn or error", f.level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.format {
	case "text":
		return slog.NewTextHandler(w, options), nil
	case "json":
		return slog.NewJSONHandler(w, options), nil
	}
	return nil, usagef("--log-format %q: use text or json", f.format)
}

// install makes h the log of controller-runtime and of client-go, which writes through klog.
func install(h slog.Handler) logr.Logger {
	log := logr.FromSlogHandler(h)
	ctrl.SetLogger(log)
	klog.SetLogger(log.WithName("client-go"))
	return log
}

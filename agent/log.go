package main

import (
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags say how to log. Logs go to standard error.
type logFlags struct{ format, level string }

func (f *logFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.format, "log-format", "text", "format of the log on standard error: `text|json`")
	flags.StringVar(&f.level, "log-level", "info", "least level that is logged: `debug|info|warn|error`")
}

func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
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
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usagef("--log-format %q: use text or json", f.format)
}

package cli

import (
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// LogFlags say how to log. Logs go to standard error.
type LogFlags struct{ Format, Level string }

// Register adds the flags to a command's.
func (f *LogFlags) Register(flags *pflag.FlagSet) {
	flags.StringVar(&f.Format, "log-format", "text", "format of the log on standard error: `text|json`")
	flags.StringVar(&f.Level, "log-level", "info", "least level that is logged: `debug|info|warn|error`")
}

// Logger writes to w as the flags say; a wrong flag is a UsageError.
func (f *LogFlags) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch f.Level {
	case "debug", "info", "warn", "error":
		_ = level.UnmarshalText([]byte(f.Level))
	default:
		return nil, Usagef("--log-level %q: use debug, info, warn or error", f.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, Usagef("--log-format %q: use text or json", f.Format)
}

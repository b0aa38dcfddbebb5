package web

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
)

// texts are all words of the pages by their keys: texts/en.json. A key that begins with "js."
// is the script's.
type texts map[string]string

func loadTexts(files fs.FS) (texts, error) {
	b, err := fs.ReadFile(files, "texts/en.json")
	if err != nil {
		return nil, err
	}
	var t texts
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("web: texts: %w", err)
	}
	return t, nil
}

// get returns a text; one that is missing shows its key, and a test fails.
func (t texts) get(key string, args ...any) string {
	s, ok := t[key]
	if !ok {
		return "{" + key + "}"
	}
	if len(args) > 0 {
		return fmt.Sprintf(s, args...)
	}
	return s
}

// script returns the texts of the script.
func (t texts) script() map[string]string {
	out := map[string]string{}
	for k, v := range t {
		if name, ok := strings.CutPrefix(k, "js."); ok {
			out[name] = v
		}
	}
	return out
}

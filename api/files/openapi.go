package files

import (
	_ "embed"
	"net/http"
)

// openapiJSON describes the API in OpenAPI 3.1. Tests hold every answer against it.
//
//go:embed openapi.json
var openapiJSON []byte

func (h *handler) openapi(w *response, _ *http.Request) {
	w.Header().Set("Cache-Control", revalidate)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openapiJSON)
}

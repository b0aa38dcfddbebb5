package files

import (
	"path"
	"strings"
)

const (
	binaryType = "application/octet-stream"
	textType   = "text/plain; charset=utf-8"
)

// inlineTypes may be shown by a browser: they hold nothing that runs. Texts of all kinds are
// plain text, since nobody knows better what they are.
var inlineTypes = map[string]string{
	".txt": textType, ".log": textType, ".md": textType, ".conf": textType, ".cfg": textType, ".ini": textType,
	".csv": textType, ".tsv": textType, ".yaml": textType, ".yml": textType, ".toml": textType, ".json": "application/json",
	".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".avif": "image/avif",
	".bmp": "image/bmp", ".ico": "image/x-icon",
	".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".oga": "audio/ogg", ".flac": "audio/flac", ".wav": "audio/wav", ".m4a": "audio/mp4",
	".mp4": "video/mp4", ".webm": "video/webm", ".ogv": "video/ogg",
}

// savedTypes are named correctly but never shown in place. What a browser would run (HTML,
// SVG, XML, scripts, style sheets) is not here: it is a row of bytes, like all the rest.
var savedTypes = map[string]string{
	".pdf": "application/pdf", ".zip": "application/zip", ".gz": "application/gzip", ".tgz": "application/gzip", ".bz2": "application/x-bzip2",
	".xz": "application/x-xz", ".zst": "application/zstd", ".tar": "application/x-tar", ".7z": "application/x-7z-compressed",
	".rar": "application/vnd.rar", ".iso": "application/x-iso9660-image", ".rtf": "application/rtf", ".epub": "application/epub+zip",
	".doc": "application/msword", ".xls": "application/vnd.ms-excel", ".ppt": "application/vnd.ms-powerpoint",
	".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	".odt":  "application/vnd.oasis.opendocument.text", ".ods": "application/vnd.oasis.opendocument.spreadsheet",
	".odp": "application/vnd.oasis.opendocument.presentation",
	".deb": "application/vnd.debian.binary-package", ".rpm": "application/x-rpm", ".sqlite": "application/vnd.sqlite3",
	".eml": "message/rfc822", ".mkv": "video/x-matroska", ".tif": "image/tiff", ".tiff": "image/tiff",
}

// typeOf tells the media type by the extension of the last name, never by content, and
// whether a browser may show it in place.
func typeOf(names []string) (mediaType string, inline bool) {
	if len(names) == 0 {
		return binaryType, false
	}
	ext := strings.ToLower(path.Ext(names[len(names)-1]))
	if t, ok := inlineTypes[ext]; ok {
		return t, true
	}
	if t, ok := savedTypes[ext]; ok {
		return t, false
	}
	return binaryType, false
}

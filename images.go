package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"slices"
	"strings"
)

// images serves OpenAI's generations: nothing is added but a missing model.
func (x *exchange) images() error {
	o, err := x.readObject()
	if err != nil {
		return err
	}
	return x.sendJSON(RouteImages, o, false)
}

// workerImages serves the worker's image routes, with its defaults.
func (x *exchange) workerImages() error {
	o, err := x.readObject()
	if err != nil {
		return err
	}
	return x.sendJSON(RouteImages, o, true)
}

// edits serves OpenAI's edits, as a form or as JSON.
func (x *exchange) edits() error {
	contentType := x.r.Header.Get("Content-Type")
	if mediaType(contentType) == "multipart/form-data" {
		return x.editForm(contentType)
	}
	body, err := x.readBody()
	if err != nil {
		return err
	}
	o, err := parseBody(body)
	if err != nil {
		return err
	}
	return x.sendJSON(RouteImageEdits, o, false)
}

// imagesOrEdits serves both on one path of the host's own.
func (x *exchange) imagesOrEdits() error {
	if mediaType(x.r.Header.Get("Content-Type")) == "multipart/form-data" || strings.HasSuffix(x.r.URL.Path, "/edits") {
		return x.edits()
	}
	return x.images()
}

// editForm forwards a form byte for byte under its own boundary. Nothing is
// added to it, not even a model.
func (x *exchange) editForm(contentType string) error {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return x.abandon(badForm(errors.New("the Content-Type has no boundary")))
	}
	body, err := x.readBody()
	if err != nil {
		return err
	}
	c := x.newCall(RouteImageEdits, "", false)
	if x.h.cfg.hooks.any() { // nobody else wants to know
		form, err := readForm(body, params["boundary"])
		if err != nil {
			return err
		}
		c.Model, c.Stream = form["model"], form["stream"] == "true"
	}
	return x.forward(c, payload{body: body, contentType: contentType})
}

// readForm returns the values of the guarded keys in a form. One that occurs
// twice is refused as it is in JSON, and so is a form that cannot be read.
func readForm(body []byte, boundary string) (map[string]string, error) {
	values := map[string]string{}
	if !bytes.HasSuffix(bytes.TrimRight(body, " \t\r\n"), []byte("\n--"+boundary+"--")) {
		return nil, badForm(errors.New("the form has no end"))
	}
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return nil, badForm(err)
		}
		name, err := fieldName(part)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(guardedKeys, name) {
			continue
		}
		if _, twice := values[name]; twice {
			return nil, badRequest(CodeDuplicateKey, name, "%s occurs more than once", name)
		}
		value, err := readGrowing(io.LimitReader(part, maxFormValue), maxFormValue)
		if err != nil {
			return nil, badForm(err)
		}
		values[name] = string(value)
	}
}

// fieldName returns the name of a part, which must be one beyond doubt: readers
// of forms differ over parts that have two.
func fieldName(part *multipart.Part) (string, error) {
	dispositions := part.Header["Content-Disposition"]
	if len(dispositions) != 1 {
		return "", badForm(errors.New("a part has not one Content-Disposition"))
	}
	kind, params, err := mime.ParseMediaType(dispositions[0])
	if err != nil || kind != "form-data" || params["name"] == "" {
		return "", badForm(errors.New("a part has no name"))
	}
	return params["name"], nil
}

// maxFormValue is as much as is read of a guarded key in a form.
const maxFormValue = 1 << 10

func badForm(err error) *Error {
	e := badRequest(CodeInvalidRequest, "", "The request body is not a well-formed form.")
	e.Err = err
	return e
}

// mediaType returns the type and subtype of a Content-Type in lower case.
func mediaType(contentType string) string {
	base, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(base))
}

// isJSON reports whether a media type is labelled JSON (RFC 6838, section
// 4.2.8).
func isJSON(mediaType string) bool {
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

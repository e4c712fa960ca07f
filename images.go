package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"regexp"
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
	body, err := x.borrowBody()
	if err != nil {
		return err
	}
	o, err := x.parseBody(body)
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
		return badForm(errors.New("the Content-Type has no boundary"))
	}
	body, err := x.borrowBody()
	if err != nil {
		return err
	}
	c := x.newCall(RouteImageEdits, "", false, payload{body: body, contentType: contentType})
	p := &c.payload
	if x.judged() || x.h.cfg.accounts() { // nobody else wants to know
		if strings.Contains(contentType, "*") { // RFC 2231: not every reader knows it
			return badForm(errors.New("the boundary can be read in two ways"))
		}
		if p.form, err = readForm(body, params["boundary"], x.guarded()); err != nil {
			return err
		}
		c.info.Model, c.info.Stream = p.form["model"], p.form["stream"] == "true"
	}
	return x.forward(c)
}

// readForm returns the values of the guarded keys in a form, but for texts.
// Where a reader
// could see another form than this one it is refused: a guarded key that occurs
// twice or in another case, a part whose name is not plain, an encoded or
// endless value, no end or more behind it, another beginning than its boundary.
func readForm(body []byte, boundary string, guarded []string) (map[string]string, error) {
	seen, values := map[string]bool{}, map[string]string{}
	end := []byte("\n--" + boundary + "--")
	if at := bytes.Index(body, end); at < 0 || len(bytes.TrimRight(body[at+len(end):], " \t\r\n")) > 0 {
		return nil, badForm(errors.New("the form has no end, or more behind it"))
	}
	if !bytes.HasPrefix(body, []byte("--"+boundary+"\r\n")) {
		return nil, badForm(errors.New("the form does not begin with its boundary"))
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
		key := guardedLike(name, guarded)
		if key == "" {
			continue
		}
		if seen[key] || key != name {
			return nil, badRequest(CodeDuplicateKey, key, "%s occurs more than once, or in another case", key)
		}
		seen[key] = true
		if key != "prompt" && key != "messages" {
			if values[key], err = formValue(part); err != nil {
				return nil, err
			}
		}
	}
}

// guardedLike returns the guarded key that name is, but for its case and for the
// brackets that some readers take for a list's.
func guardedLike(name string, guarded []string) string {
	name, _, _ = strings.Cut(name, "[")
	for _, key := range guarded {
		if strings.EqualFold(key, name) {
			return key
		}
	}
	return ""
}

// formValue reads a short value that stands in the form as it is.
func formValue(part *multipart.Part) (string, error) {
	switch strings.ToLower(strings.Join(part.Header["Content-Transfer-Encoding"], ",")) {
	case "", "7bit", "8bit", "binary":
	default:
		return "", badForm(errors.New("a value is encoded"))
	}
	value, err := readGrowing(io.LimitReader(part, maxFormValue+1), maxFormValue+1, forever, nil)
	if err == nil && len(value) > maxFormValue {
		err = errors.New("a value is too long")
	}
	if err != nil {
		return "", badForm(err)
	}
	return string(value), nil
}

// plainName is a name of a part that every reader reads alike.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]{1,64}$`)

// fieldName returns the name of a part, which must be one beyond doubt: readers
// of forms differ over parts that have two, and over RFC 2231 (name*=).
func fieldName(part *multipart.Part) (string, error) {
	dispositions := part.Header["Content-Disposition"]
	if len(dispositions) != 1 {
		return "", badForm(errors.New("a part has not one Content-Disposition"))
	}
	kind, params, err := mime.ParseMediaType(dispositions[0])
	if err != nil || strings.Contains(dispositions[0], `\`) || kind != "form-data" || !plainName.MatchString(params["name"]) || nameStar.MatchString(dispositions[0]) {
		return "", badForm(errors.New("a part has no plain name"))
	}
	return params["name"], nil
}

var nameStar = regexp.MustCompile(`(?i)[;\s]name\*`)

// maxFormValue is the most that is read of a value in a form.
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

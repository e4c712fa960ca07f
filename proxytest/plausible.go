package proxytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
)

// plausible answers a request without a script.
func (u *Upstream) plausible(req *Request) reply {
	var answer func(*Request) reply
	switch {
	case pathEnds(req.Target, "/chat/completions"):
		answer = u.plausibleChat
	case pathEnds(req.Target, "/images/generations"), pathEnds(req.Target, "/images/edits"):
		answer = u.plausibleImage
	default:
		return refusal(http.StatusNotFound, "Invalid URL (%s)", req.Method+" "+req.Target)
	}
	if req.Method != http.MethodPost {
		return refusal(http.StatusMethodNotAllowed, "Not allowed to %s on %s", req.Method, req.Target)
	}
	return answer(req)
}

func (u *Upstream) plausibleChat(req *Request) reply {
	var asked chatRequest
	if err := json.Unmarshal(req.Body, &asked); err != nil {
		return refusal(http.StatusBadRequest, "We could not parse the JSON body of your request.")
	}
	if asked.Model == "" {
		return refusal(http.StatusBadRequest, "you must provide a model parameter")
	}
	if asked.Messages == nil {
		return refusal(http.StatusBadRequest, "Missing required parameter: 'messages'.")
	}
	content := "You said: " + lastUserText(asked)
	if asked.Stream {
		return streamReply(chatSteps(req, u.Pace, strings.SplitAfter(content, " ")))
	}
	return Chat(content).plan(req)
}

// lastUserText returns the text of the last message of the user, whether one
// string or parts.
func lastUserText(asked chatRequest) string {
	for _, m := range slices.Backward(asked.Messages) {
		if m.Role != "user" {
			continue
		}
		var text string
		if json.Unmarshal(m.Content, &text) == nil {
			return text
		}
		var parts []struct{ Text string }
		_ = json.Unmarshal(m.Content, &parts) // neither form: no text
		for _, part := range parts {
			text += part.Text
		}
		return text
	}
	return ""
}

// imageRequest is what answers look at in an image request.
type imageRequest struct {
	Prompt         string `json:"prompt"`
	Stream         bool   `json:"stream"`
	ResponseFormat string `json:"response_format"`
}

func (u *Upstream) plausibleImage(req *Request) reply {
	asked, err := readImageRequest(req)
	if err != nil {
		return refusal(http.StatusBadRequest, "We could not parse the body of your request.")
	}
	if asked.Prompt == "" {
		return refusal(http.StatusBadRequest, "Missing required parameter: 'prompt'.")
	}
	if asked.Stream {
		return streamReply(imageSteps(req, u.Pace, asked.Prompt))
	}
	if asked.ResponseFormat == "url" {
		return ImageURL("https://images.example/" + req.id + ".png").plan(req)
	}
	return ImageBase64(drawPNG(asked.Prompt)).plan(req)
}

// readImageRequest reads a JSON body or a form.
func readImageRequest(req *Request) (imageRequest, error) {
	var asked imageRequest
	kind, params, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if kind != "multipart/form-data" {
		err := json.Unmarshal(req.Body, &asked)
		return asked, err
	}
	form, err := multipart.NewReader(bytes.NewReader(req.Body), params["boundary"]).ReadForm(int64(len(req.Body)))
	if err != nil {
		return asked, err
	}
	field := func(name string) string { return strings.Join(form.Value[name], "") }
	asked.Prompt, asked.ResponseFormat = field("prompt"), field("response_format")
	asked.Stream = field("stream") == "true"
	return asked, form.RemoveAll()
}

// refusal is the API's answer to a request that cannot be served.
func refusal(status int, format string, args ...any) reply {
	return jsonReply(status, envelope("invalid_request_error", "", fmt.Sprintf(format, args...)))
}

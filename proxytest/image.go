package proxytest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"strings"
	"time"
)

// ImageURL answers with these URLs, as the older image models do.
func ImageURL(urls ...string) Answer {
	data := make([]imageData, len(urls))
	for i, url := range urls {
		data[i].URL = url
	}
	return imageAnswer(data)
}

// ImageBase64 answers with these images as b64_json. The bytes are not looked
// at.
func ImageBase64(images ...[]byte) Answer {
	data := make([]imageData, len(images))
	for i, b := range images {
		data[i].B64JSON = base64.StdEncoding.EncodeToString(b)
	}
	return imageAnswer(data)
}

// ImageStream answers with two named events, image_generation.partial_image and
// image_generation.completed with usage, each with a small PNG. On a path that
// ends in /edits they are called image_edit. There is no [DONE].
func ImageStream() Answer {
	return Answer{plan: func(req *Request) reply { return streamReply(imageSteps(req, 0, "")) }}
}

func imageAnswer(data []imageData) Answer {
	return Answer{plan: func(*Request) reply {
		return jsonReply(http.StatusOK, encode(imageReply{
			Created: time.Now().Unix(), Data: data, imageTraits: newImageTraits(), Usage: imageUsage(),
		}))
	}}
}

// imageSteps returns the steps of an ImageStream, with a pause before each event.
func imageSteps(req *Request, pace time.Duration, prompt string) []Step {
	prefix := "image_generation"
	if pathEnds(req.Target, "/edits") {
		prefix = "image_edit"
	}
	picture := base64.StdEncoding.EncodeToString(drawPNG(prompt))
	events := []imageEvent{
		{Type: prefix + ".partial_image", PartialImageIndex: new(0)},
		{Type: prefix + ".completed", Usage: imageUsage()},
	}
	var steps []Step
	for _, event := range events {
		event.B64JSON, event.CreatedAt, event.imageTraits = picture, time.Now().Unix(), newImageTraits()
		if pace > 0 {
			steps = append(steps, Pause(pace))
		}
		steps = append(steps, eventStep(event.Type, encode(event)))
	}
	return steps
}

type imageReply struct {
	Created int64       `json:"created"`
	Data    []imageData `json:"data"`
	imageTraits
	Usage json.RawMessage `json:"usage"`
}

type imageData struct {
	URL     string `json:"url,omitempty"`
	B64JSON string `json:"b64_json,omitempty"`
}

type imageEvent struct {
	Type              string `json:"type"`
	B64JSON           string `json:"b64_json"`
	PartialImageIndex *int   `json:"partial_image_index,omitempty"`
	CreatedAt         int64  `json:"created_at"`
	imageTraits
	Usage json.RawMessage `json:"usage,omitempty"`
}

type imageTraits struct {
	Background   string `json:"background"`
	OutputFormat string `json:"output_format"`
	Quality      string `json:"quality"`
	Size         string `json:"size"`
}

func newImageTraits() imageTraits {
	return imageTraits{Background: "opaque", OutputFormat: "png", Quality: "low", Size: "1024x1024"}
}

func imageUsage() json.RawMessage {
	return json.RawMessage(`{"input_tokens":10,"output_tokens":20,"total_tokens":30,` +
		`"input_tokens_details":{"text_tokens":10,"image_tokens":0},` +
		`"output_tokens_details":{"text_tokens":0,"image_tokens":20}}`)
}

// drawPNG draws a gradient of 64 by 64 points in a colour that depends on the
// prompt.
func drawPNG(prompt string) []byte {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(prompt))
	sum := hash.Sum32()
	const side = 64
	picture := image.NewRGBA(image.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			picture.Set(x, y, color.RGBA{
				R: uint8(sum) ^ uint8(2*x), G: uint8(sum>>8) ^ uint8(2*y), B: uint8(sum >> 16), A: 255,
			})
		}
	}
	var b bytes.Buffer
	_ = png.Encode(&b, picture) // neither the buffer nor the bounds can fail
	return b.Bytes()
}

// pathEnds reports whether the path of a request target ends in suffix.
func pathEnds(target, suffix string) bool {
	path, _, _ := strings.Cut(target, "?")
	return strings.HasSuffix(path, suffix)
}

package proxy

import (
	"context"
	"encoding/json"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// imageReply is what is read of an image answer.
type imageReply struct {
	Data         []openai.ImageResponseDataInner `json:"data"`
	Size         string                          `json:"size"`
	Quality      string                          `json:"quality"`
	Background   string                          `json:"background"`
	OutputFormat string                          `json:"output_format"`
	Usage        *struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
		Total  int `json:"total_tokens"`
	} `json:"usage"`
}

func (g *graphQL) generateImage(ctx context.Context, p gqldoc.Params) (any, error) {
	input, _ := p.Args["input"].(map[string]any)
	body, err := requestBody(input)
	if err != nil {
		return nil, err
	}
	var reply imageReply
	var sent map[string]any
	err = g.ask(exchangeOf(ctx), RouteImages, body, func(c *call, answer []byte) error {
		if err := json.Unmarshal(answer, &reply); err != nil {
			return errBadResponse(err)
		}
		if len(reply.Data) == 0 {
			failed, err := readReply(answer, "") // an error object with status 200 looks alike everywhere
			return answerFault(failed, err, c.key)
		}
		return json.Unmarshal(c.payload.body, &sent)
	})
	if err != nil {
		return nil, fieldFailed(err)
	}
	return g.imageFields(sent, reply), nil
}

// imageFields shows an answer as an ImageResult: what the upstream says it did,
// or else what it was asked to do.
func (g *graphQL) imageFields(sent map[string]any, reply imageReply) map[string]any {
	asked := func(key, said string) any {
		if said != "" {
			return said
		}
		text, ok := sent[key].(string)
		if !ok {
			return nil
		}
		return text
	}
	fields := map[string]any{
		"id": "img_" + g.digits(), "prompt": asked("prompt", ""), "model": asked("model", ""),
		"size": asked("size", reply.Size), "quality": asked("quality", reply.Quality), "style": asked("style", ""),
		"background":    asked("background", reply.Background),
		"output_format": asked("output_format", reply.OutputFormat),
		"timestamp":     timestamp(time.Now()), "success": true,
	}
	images := make([]any, len(reply.Data))
	for i, d := range reply.Data {
		format, _ := fields["output_format"].(string)
		images[i] = g.imageField(d, format)
	}
	fields["images"] = images
	if u := reply.Usage; u != nil {
		fields["usage"] = map[string]any{"inputTokens": u.Input, "outputTokens": u.Output, "totalTokens": u.Total}
	}
	return fields
}

func (g *graphQL) imageField(d openai.ImageResponseDataInner, format string) map[string]any {
	url := d.URL
	if url == "" && d.B64JSON != "" && g.options.DataURLs {
		if format == "" {
			format = "png"
		}
		if format == "svg" {
			format = "svg+xml"
		}
		url = "data:image/" + format + ";base64," + d.B64JSON
	}
	return map[string]any{"url": orNull(url), "b64_json": orNull(d.B64JSON), "revised_prompt": orNull(d.RevisedPrompt)}
}

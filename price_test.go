package proxy_test

import (
	"math"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// prTable is in dollars per million tokens.
func prTable() map[string]proxy.Price {
	return map[string]proxy.Price{
		"gpt-6-luna":  {Prompt: 1.25, Cached: 0.125, Completion: 10},
		"gpt-6*":      {Prompt: 2, Completion: 20},
		"gpt-*":       {Prompt: 3, Completion: 30},
		"gpt-image-2": {Prompt: 5, Cached: 1.25, ImagePrompt: 8, Completion: 12, ImageCompletion: 30},
		"dall-e-3":    {Image: 0.04},
		"free":        {},
	}
}

// prCost makes a call and returns its cost and usage.
func prCost(t *testing.T, path, body, answer string) (proxy.Money, proxy.Usage) {
	t.Helper()
	book := newDoneBook()
	f := start(t, proxy.WithPrices(prTable()), proxy.WithHooks(proxy.Hooks{Done: book.done}))
	f.up.Queue(proxytest.JSON(200, answer))
	f.post(t, path, body)
	out := book.only(t, f).out
	if want := "cost=" + out.Cost.String(); !strings.Contains(f.logs.String(), want) {
		t.Errorf("the record does not say %s:\n%s", want, f.logs)
	}
	return out.Cost, out.Usage
}

func TestCostOfAChatByHand(t *testing.T) {
	t.Parallel()
	cost, usage := prCost(t, streamPath, `{"model":"gpt-6-luna","messages":[]}`,
		`{"choices":[],"usage":{"prompt_tokens":1200,"completion_tokens":345,"total_tokens":1545,
		"prompt_tokens_details":{"cached_tokens":1000},"completion_tokens_details":{"reasoning_tokens":300}}}`)
	//   200 fresh tokens at $1.25 a million   $0.000250
	// 1,000 cached tokens at $0.125           $0.000125
	//   345 completion tokens at $10          $0.003450, the 300 of reasoning among them
	if cost != 3825 || cost.String() != "0.003825" {
		t.Errorf("the chat cost %s, want 0.003825", cost)
	}
	if usage.ReasoningTokens != 300 || usage.CachedTokens != 1000 || !usage.Reported {
		t.Errorf("usage %+v", usage)
	}
}

func TestCostOfAnImageByHand(t *testing.T) {
	t.Parallel()
	cost, usage := prCost(t, "/v1/images/edits", `{"model":"gpt-image-2","prompt":"p","n":2}`,
		`{"data":[],"usage":{"input_tokens":700,"output_tokens":8400,"total_tokens":9100,
		"input_tokens_details":{"text_tokens":50,"image_tokens":650},"output_tokens_details":{"text_tokens":0,"image_tokens":8400}}}`)
	//    50 text tokens in at $5      $0.000250
	//   650 image tokens in at $8     $0.005200
	// 8,400 image tokens out at $30   $0.252000
	if cost != 257_450 {
		t.Errorf("the image cost %s, want 0.257450", cost)
	}
	if usage.Images != 2 || usage.ImagePromptTokens != 650 || usage.ImageCompletionTokens != 8400 {
		t.Errorf("usage %+v", usage)
	}
}

func TestCostByTheImage(t *testing.T) {
	t.Parallel()
	cost, usage := prCost(t, "/v1/images/generations", `{"model":"dall-e-3","prompt":"p","n":3}`, `{"data":[]}`)
	if cost != 120_000 || !usage.Estimated {
		t.Errorf("three images cost %s, want 0.120000 (%+v)", cost, usage)
	}
}

func TestCostByTheBestPattern(t *testing.T) {
	t.Parallel()
	for model, want := range map[string]proxy.Money{
		"gpt-6-luna":  1_250_000,
		"gpt-6-sol":   2_000_000,
		"gpt-4o":      3_000_000,
		"free":        0,
		"vendor/else": 5_000_000, // as the dearest
		"gpt-6-luna2": 2_000_000,
	} {
		cost, _ := prCost(t, streamPath, `{"model":"`+model+`","messages":[]}`,
			`{"choices":[],"usage":{"prompt_tokens":1000000,"completion_tokens":0,"total_tokens":1000000}}`)
		if cost != want {
			t.Errorf("a million tokens of %s cost %s, want %s", model, cost, want)
		}
	}
}

func TestCostIsRoundedUpAndNeverWraps(t *testing.T) {
	t.Parallel()
	one, _ := prCost(t, streamPath, `{"model":"gpt-6-luna","messages":[]}`, `{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":0}}`)
	if one != 2 { // 1.25 millionths
		t.Errorf("one token cost %s, want 0.000002", one)
	}
	most, _ := prCost(t, streamPath, `{"model":"gpt-6-luna","messages":[]}`,
		`{"choices":[],"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":9223372036854775807}}`)
	if most != math.MaxInt64 {
		t.Errorf("the most that can be used cost %d", most)
	}
	odd, _ := prCost(t, streamPath, `{"model":"gpt-6-luna","messages":[]}`,
		`{"choices":[],"usage":{"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":99,"image_tokens":99}}}`)
	if odd != 2 { // ten cached ones: 1.25 millionths
		t.Errorf("more cached tokens than there are cost %s, want 0.000002", odd)
	}
}

func TestMoneyIsWrittenInWholeUnits(t *testing.T) {
	t.Parallel()
	for m, want := range map[proxy.Money]string{
		0: "0.000000", 1: "0.000001", 1_000_000: "1.000000", 12_345_678: "12.345678",
		-1: "-0.000001", math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808",
	} {
		if got := m.String(); got != want {
			t.Errorf("%d is %s, want %s", int64(m), got, want)
		}
	}
}

func TestPricesThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]map[string]proxy.Price{
		"negative":   {"m": {Prompt: -1}},
		"no number":  {"m": {Completion: math.NaN()}},
		"infinite":   {"m": {Cached: math.Inf(1)}},
		"too much":   {"m": {Image: 1e10}},
		"two stars":  {"*m*": {}},
		"empty name": {"": {}},
	} {
		_, err := proxy.NewHandler(proxy.WithKey("sk-test"), proxy.WithPrices(table))
		if err == nil || !strings.Contains(err.Error(), "WithPrices") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package proxy

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// Money is an amount in millionths of the currency in which a [Price] is given.
type Money int64

// String writes the amount in whole units with six decimals, such as "0.001250".
func (m Money) String() string {
	sign, n := "", uint64(m) //nolint:gosec // the sign is written apart
	if m < 0 {
		sign, n = "-", -n
	}
	return fmt.Sprintf("%s%d.%06d", sign, n/1e6, n%1e6)
}

// Price is what a model costs, per million tokens as providers publish it, in a
// currency of your choice; six decimals count. It knows nothing of service tiers
// and of prices that depend on length: refuse those with a [Policy], or set the
// dearest price.
type Price struct {
	_ [0]func()

	Prompt     float64 // per million prompt tokens; input_tokens for images
	Cached     float64 // per million of them that were cached; 0: as Prompt
	Completion float64 // per million completion tokens, reasoning among them

	ImagePrompt     float64 // per million prompt tokens that are images; 0: as Prompt
	ImageCompletion float64 // per million completion tokens that are images; 0: as Completion
	Image           float64 // per image, for models that are not paid by token
}

// WithPrices sets what models cost: the keys are names, or patterns with one "*".
// A name beats a pattern, a longer pattern a shorter one. A model that no key
// names counts as the dearest of the table, so that none is free by mistake.
// Passing it again replaces the table. Default: none, and no cost is known.
func WithPrices(prices map[string]Price) Option {
	table := make(priceTable, 0, len(prices))
	for pattern, p := range prices {
		table = append(table, newPriceRow(pattern, p))
	}
	slices.SortFunc(table, func(a, b priceRow) int {
		if a.wild != b.wild { // names first
			if b.wild {
				return -1
			}
			return 1
		}
		if len(a.pattern) != len(b.pattern) {
			return len(b.pattern) - len(a.pattern)
		}
		return strings.Compare(a.pattern, b.pattern)
	})
	return optionFunc(func(c *config) { c.prices = table })
}

// priceTable is in the order in which its rows are tried.
type priceTable []priceRow

// priceRow has the prices of a Price as whole numbers: millionths per million
// tokens, and per image.
type priceRow struct {
	pattern string
	wild    bool
	price   Price

	prompt, cached, completion, imagePrompt, imageCompletion, image uint64
}

func newPriceRow(pattern string, p Price) priceRow {
	or := func(v, other float64) uint64 {
		if v == 0 {
			v = other
		}
		return uint64(math.Round(max(0, min(v, maxPrice)) * 1e6))
	}
	return priceRow{
		pattern: pattern, wild: strings.Contains(pattern, "*"), price: p,
		prompt: or(p.Prompt, 0), cached: or(p.Cached, p.Prompt), completion: or(p.Completion, 0),
		imagePrompt: or(p.ImagePrompt, p.Prompt), imageCompletion: or(p.ImageCompletion, p.Completion), image: or(p.Image, 0),
	}
}

// maxPrice keeps sums of products within 128 bits.
const maxPrice = 1e9

func (t priceTable) check() error {
	for _, row := range t {
		if row.pattern == "" || strings.Count(row.pattern, "*") > 1 {
			return fmt.Errorf(`invalid model %q: a name or a pattern with one "*" is required`, row.pattern)
		}
		p := row.price
		for _, v := range []float64{p.Prompt, p.Cached, p.Completion, p.ImagePrompt, p.ImageCompletion, p.Image} {
			if !(v >= 0 && v <= maxPrice) { // also NaN
				return fmt.Errorf("invalid price %v of %q", v, row.pattern)
			}
		}
	}
	return nil
}

// cost is what u costs with a model, rounded up to a millionth.
func (t priceTable) cost(model string, u Usage) Money {
	for i := range t {
		if matchModel(t[i].pattern, model) {
			return t[i].cost(u)
		}
	}
	dearest := Money(0)
	for i := range t {
		dearest = max(dearest, t[i].cost(u))
	}
	return dearest
}

// cost adds up in 128 bits and saturates: no usage can make it wrap.
func (row *priceRow) cost(u Usage) Money {
	var hi, lo uint64
	add := func(n int64, price uint64) {
		h, l := bits.Mul64(uint64(max(n, 0)), price)
		var carry uint64
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry)
	}
	// Parts of the prompt are taken off it in turn, so that no token is paid twice.
	cached := min(u.CachedTokens, u.PromptTokens)
	imagePrompt := min(u.ImagePromptTokens, u.PromptTokens-cached)
	imageCompletion := min(u.ImageCompletionTokens, u.CompletionTokens)
	add(cached, row.cached)
	add(imagePrompt, row.imagePrompt)
	add(u.PromptTokens-cached-imagePrompt, row.prompt)
	add(imageCompletion, row.imageCompletion)
	add(u.CompletionTokens-imageCompletion, row.completion)
	if u.Images > 0 {
		h, l := bits.Mul64(uint64(u.Images), row.image)
		if h != 0 || l > math.MaxUint64/1_000_000 {
			return math.MaxInt64
		}
		add(1e6, l)
	}
	lo, carry := bits.Add64(lo, 1e6-1, 0)
	hi += carry
	if hi >= 1e6 {
		return math.MaxInt64
	}
	micros, _ := bits.Div64(hi, lo, 1e6)
	return Money(min(micros, math.MaxInt64))
}

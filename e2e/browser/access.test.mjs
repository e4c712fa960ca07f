// The demo page for everybody: keyboards, small screens, dark rooms, screen
// readers.
import assert from 'node:assert/strict';
import { hasText, open, picture, prompt, release, root, test, upstreamCall } from './support.mjs';

const focused = (page) => page.evaluate(() => {
  const { id, textContent, tagName } = document.activeElement;
  return id || (tagName === 'BUTTON' ? textContent : tagName);
});

/** Tabs forward until the element is reached; every stop must show its focus. */
async function tabTo(page, wanted) {
  for (let i = 0; i < 25; i++) {
    await page.keyboard.press('Tab');
    const visible = await page.evaluate(() => document.activeElement === document.body
      || getComputedStyle(document.activeElement).outlineStyle === 'solid');
    assert.ok(visible, `no focus is seen on ${await focused(page)}`);
    if (await focused(page) === wanted) return;
  }
  assert.fail(`the keyboard does not reach ${wanted}`);
}

test('everything works with the keyboard alone', async (t) => {
  const page = await open(t, root, { expected: /^Failed to load resource/ });
  const silent = prompt('fall silent'), limited = prompt('limit the rate once');
  await tabTo(page, 'tab-chat');
  await tabTo(page, 'message');
  await page.keyboard.type(silent);
  await page.keyboard.press('Enter');
  await hasText(page.locator('.assistant'), 'Assistant: The first half');
  await page.keyboard.press('Escape');
  await upstreamCall(silent, 'left');
  await page.getByRole('button', { name: 'Send' }).waitFor();
  assert.equal(await focused(page), 'message');

  await page.keyboard.type(limited);
  await tabTo(page, 'Send');
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Retry' }).waitFor();
  assert.equal(await focused(page), 'message');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await focused(page), 'Retry');
  await page.keyboard.press('Enter');
  await hasText(page.locator('.assistant').nth(1), `Assistant: You said: ${limited}`);

  const stopped = prompt('never answer');
  await page.getByRole('button', { name: 'Send' }).waitFor();
  assert.equal(await focused(page), 'message');
  await page.keyboard.type(stopped);
  await tabTo(page, 'Send');
  await page.keyboard.press('Space');
  await upstreamCall(stopped, 'running');
  assert.equal(await focused(page), 'Stop');
  await page.keyboard.press('Enter');
  await upstreamCall(stopped, 'left');

  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await focused(page), 'tab-chat');
  await page.keyboard.press('ArrowRight');
  assert.equal(await focused(page), 'tab-image');
  await tabTo(page, 'prompt');
  await page.keyboard.type('a lighthouse');
  await page.keyboard.press('Enter');
  await page.getByRole('img', { name: 'a lighthouse' }).waitFor();
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('End');
  assert.equal(await focused(page), 'tab-graphql');
  await hasText(page.locator('#session'), /^session_/);
  assert.equal(await focused(page), 'tab-graphql'); // starting a session takes no focus away
  await tabTo(page, 'Run');
  await page.keyboard.press('Enter');
  await hasText(page.locator('#answer'), 'You said: Hello!');
  await tabTo(page, 'result');
});

test('every control has a name, and the tabs their panels', async (t) => {
  const page = await open(t, root), client = await page.context().newCDPSession(page);
  let controls = 0;
  for (const name of ['Chat', 'Image', 'GraphQL']) {
    await page.getByRole('tab', { name }).click();
    await page.getByRole('tabpanel', { name }).waitFor();
    for (const details of await page.locator('details:visible').all()) await details.evaluate((element) => { element.open = true; });
    const { nodes } = await client.send('Accessibility.getFullAXTree');
    for (const node of nodes.filter(({ role }) => /^(button|textbox|combobox|spinbutton|tab|tabpanel|tablist|log|region|image)$/.test(role?.value))) {
      assert.ok(node.name?.value, `a ${node.role.value} without a name`);
      controls++;
    }
  }
  assert.ok(controls > 25, `${controls} controls`);
});

/** The texts of the page whose contrast with what is behind them is under 4.5. */
const tooPale = (page) => page.evaluate(() => {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] !== 0) return color;
    }
    return [255, 255, 255];
  };
  const seen = [], pale = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const isField = element.matches('textarea, input, select');
    if (!(own || isField) || !element.checkVisibility() || element.matches('script, option')) continue;
    const [light, dark] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    seen.push(element);
    if (ratio < 4.5) pale.push(`${element.tagName} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return { seen: seen.length, pale };
});

for (const [size, viewport] of Object.entries({ wide: { width: 1280, height: 800 }, narrow: { width: 320, height: 640 } })) {
  for (const colorScheme of ['light', 'dark']) {
    test(`${size} and ${colorScheme}: nothing is cut off or pale`, async (t) => {
      const page = await open(t, root, { viewport, colorScheme, expected: /^Failed to load resource/ });
      const fits = async (name) => {
        const { width, inside } = await page.evaluate(() => ({
          width: document.documentElement.scrollWidth, inside: document.documentElement.clientWidth,
        }));
        assert.ok(width <= inside, `${name}: ${width} px in ${inside}`);
        const { seen, pale } = await tooPale(page);
        assert.ok(seen > 5, `${seen} texts`);
        assert.deepEqual(pale, [], name);
        await picture(page, `${size}-${colorScheme}-${name}`);
      };
      await page.getByLabel('Message').fill(`Show me a long word: ${'wide'.repeat(40)}`);
      await page.keyboard.press('Enter');
      await hasText(page.locator('.assistant'), /You said: Show me/);
      await page.getByRole('button', { name: 'Send' }).waitFor();
      await page.getByLabel('Message').fill(prompt('limit the rate'));
      await page.keyboard.press('Enter');
      await page.getByRole('alert').waitFor();
      await page.getByText('Model and parameters').click();
      await fits('chat');
      await page.getByRole('tab', { name: 'Image' }).click();
      await page.getByLabel('What to draw').fill('A lighthouse in the evening, as seen from a small boat');
      await page.keyboard.press('Enter');
      await page.locator('figure img').waitFor();
      await fits('image');
      await page.getByRole('tab', { name: 'GraphQL' }).click();
      await hasText(page.locator('#session'), /^session_/);
      await page.getByRole('button', { name: 'Run' }).click();
      await hasText(page.locator('#answer'), 'You said: Hello!');
      await fits('graphql');
    });
  }
}

test('who wants no motion gets none', async (t) => {
  for (const [reducedMotion, animation] of [['no-preference', 'pulse'], ['reduce', 'none']]) {
    const page = await open(t, root, { reducedMotion }), text = prompt('wait in the middle');
    await page.getByLabel('Message').fill(text);
    await page.keyboard.press('Enter');
    await hasText(page.locator('.writing'), 'Assistant: The first half');
    assert.equal(await page.locator('.writing').evaluate((p) => getComputedStyle(p, '::after').animationName), animation);
    await release(text);
    await page.getByRole('button', { name: 'Send' }).waitFor();
  }
});

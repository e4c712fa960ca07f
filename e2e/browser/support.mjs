// What every test needs: a browser, its pages, and what the upstream saw.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, test as nodeTest } from 'node:test';
import { chromium } from 'playwright-core';

function setting(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: start the tests with run.sh`);
  return value;
}

export const demo = setting('DEMO_URL'); // the true program, with its own upstream
export const root = setting('PROXY_URL'); // the same page, over the scripted upstream
export const allowed = setting('ALLOWED_URL');
export const stranger = setting('STRANGER_URL');
export const members = setting('MEMBERS_URL');
const upstream = setting('UPSTREAM_URL');

const browser = await chromium.launch({
  executablePath: setting('CHROMIUM'),
  headless: true,
  timeout: 30_000,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
after(() => browser.close());

/** A test that ends by itself. */
export const test = (name, run) => nodeTest(name, { timeout: 30_000 }, run);

/** A prompt that no other test sends. What stands before the colon is a script of server/upstream.go. */
export const prompt = (script = 'say') => `${script}: ${randomUUID()}`;

/**
 * Opens a page in a profile of its own and closes it after the test. Whatever
 * the page complains about in its console fails the test, unless `expected`
 * matches it: a browser reports each answer of 400 and above, and a violation of
 * the security policy, there.
 */
export async function open(t, url, { expected = /^$/, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 800 }, ...options });
  const complaints = [];
  context.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  context.on('weberror', (error) => complaints.push(String(error.error())));
  const page = await context.newPage();
  page.setDefaultTimeout(8_000);
  t.after(async () => {
    await context.close();
    assert.deepEqual(complaints.filter((text) => !expected.test(text)), []);
  });
  await page.goto(url);
  return page;
}

/** The calls that the upstream got about one prompt. */
export async function calls(about) {
  const response = await fetch(`${upstream}/calls`);
  return (await response.json()).filter((call) => call.prompt === about);
}

/** Waits until the newest call about a prompt is in that state. */
export async function upstreamCall(about, state) {
  let seen;
  for (const end = Date.now() + 5_000; Date.now() < end; await sleep(10)) {
    seen = await calls(about);
    if (seen.at(-1)?.state === state) return seen.at(-1);
  }
  assert.fail(`wanted a call in state ${state}, got ${JSON.stringify(seen)}`);
}

/** Lets the upstream go on with what it holds back for a prompt. */
export async function release(about) {
  const response = await fetch(`${upstream}/open?prompt=${encodeURIComponent(about)}`, { method: 'POST' });
  assert.equal(response.status, 200);
}

/** Waits until a locator has this text, or one that matches. */
export async function hasText(locator, wanted) {
  const matches = (text) => (wanted instanceof RegExp ? wanted.test(text) : text === wanted);
  let text;
  for (const end = Date.now() + 8_000; Date.now() < end; await sleep(20)) {
    text = (await locator.allTextContents()).join('\n');
    if (matches(text)) return;
  }
  assert.fail(`wanted ${wanted}, the page shows ${JSON.stringify(text)}`);
}

/** Keeps a picture of the page, for people. */
export async function picture(page, name) {
  const folder = new URL('screenshots/', import.meta.url).pathname;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: `${folder}${name}.png`, fullPage: true });
}

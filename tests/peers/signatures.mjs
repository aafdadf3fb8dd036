// Every case of cases.json: the verdict of Stripe's own library for Node.js beside that of the running server.
// The same as signatures.py, with the other library.

import { createHmac } from 'node:crypto';
import { appendFileSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { createRequire } from 'node:module';

const LIBRARY = 'stripe-node';
const loaded = createRequire(`${process.env.PEERS_NODE}/`)('stripe');
const { webhooks } = new (loaded.default ?? loaded)('sk_test_unused');

const url = process.env.PEERS_URL;
const [current, old] = process.env.PEERS_SECRETS.split(',');
const read = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), 'utf8'));
const table = read('cases.json');
const listed = read('differences.json')[LIBRARY];

let done = 0;
let failed = 0;
function check(ok, text, detail = '') {
  done += 1;
  if (!ok) failed += 1;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${LIBRARY}: ${text}${ok || !detail ? '' : `: ${detail}`}`);
}

// The library's own signature; it signs text and numbers only, so what is none is signed by hand.
function sign(secret, t, body) {
  const payload = body.toString('utf8');
  if (!Buffer.from(payload).equals(body) || String(Number(t)) !== t) {
    return createHmac('sha256', secret).update(`${t}.`).update(body).digest('hex');
  }
  return webhooks.generateTestHeaderString({ timestamp: Number(t), payload, secret }).split(',v1=')[1];
}

// What constructEvent does with the current or the old secret; which step refuses is asked of verifyHeader.
function libraryVerdict(body, header) {
  let verdict = 'bad-signature';
  for (const secret of [current, old]) {
    try {
      webhooks.constructEvent(body, header, secret);
      return 'accepted';
    } catch {
      // as below
    }
    try {
      webhooks.signature.verifyHeader(body, header, secret, webhooks.DEFAULT_TOLERANCE);
      verdict = 'bad-event';
    } catch {
      // refused
    }
  }
  return verdict;
}

function send(body, header) {
  const headers = { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': body.length };
  if (header !== undefined) headers['Stripe-Signature'] = header;
  return new Promise((resolve, reject) => {
    const sent = request(`${url}/api/v1/stripe/webhook`, { method: 'POST', headers, agent: false }, (reply) => {
      const chunks = [];
      reply.on('data', (chunk) => chunks.push(chunk));
      reply.on('error', reject);
      reply.on('end', () => {
        const kind = reply.headers['content-type'] ?? '';
        resolve({ status: reply.statusCode, kind, text: Buffer.concat(chunks).toString() });
      });
    });
    sent.setTimeout(30_000, () => sent.destroy(new Error('no answer within 30 seconds')));
    sent.on('error', reject);
    sent.end(body);
  });
}

// The verdict, or a description of an answer that is none.
function serverVerdict(reply, eventId) {
  try {
    const answer = JSON.parse(reply.text);
    if (reply.status === 200) {
      const stored = ['recorded', 'skipped'].includes(answer.outcome);
      if (answer.received === true && answer.event_id === eventId && stored) return 'accepted';
    } else if (reply.status === 400 && reply.kind.startsWith('application/problem+json')) {
      const reason = answer.type.match(/[a-z0-9-]+$/)[0];
      if (/^signature-(missing|malformed|no-v1|mismatch|expired|future)$/.test(reason)) return 'bad-signature';
      if (reason === 'not-an-event') return 'bad-event';
    }
  } catch {
    // as below
  }
  return `unexpected: ${reply.status} ${reply.text.slice(0, 300)} (${reply.kind})`;
}

function bodyOf(text, testCase, eventId, now) {
  const template = text.startsWith('@') ? table.bodies[text.slice(1)] : text;
  return Buffer.from(template.replaceAll('ID', eventId).replaceAll('TIME', now), testCase.encoding ?? 'utf8');
}

function build(testCase, eventId) {
  const now = Math.floor(Date.now() / 1000);
  const t = testCase.at ?? now - (testCase.age ?? 0);
  const body = bodyOf(testCase.body ?? '@event', testCase, eventId, now);
  const sent = 'sent' in testCase ? bodyOf(testCase.sent, testCase, eventId, now) : body;
  if (!('header' in testCase)) return { sent };
  const signedT = (testCase.signed_t ?? '{t}').replace('{t}', t);
  const sig = sign(current, signedT, body);
  const values = {
    t, t_earlier: t - 60, t_underscore: `${String(t)[0]}_${String(t).slice(1)}`,
    sig, SIG: sig.toUpperCase(), sig_cut: sig.slice(0, -2), zeros: '0'.repeat(64),
    sig_old: sign(old, signedT, body), sig_stranger: sign('whsec_somebody_else', signedT, body),
    sig_newline: sign(`${current}\n`, signedT, body), sig_empty: sign('', signedT, body),
    made: webhooks.generateTestHeaderString({ timestamp: t, payload: body.toString('utf8'), secret: current }),
  };
  const header = testCase.header.replace(/\{(\w+)\}/g, (_, name) => {
    if (!(name in values)) throw new Error(`${testCase.case}: what is {${name}}?`);
    return values[name];
  });
  return { sent, header };
}

const names = new Set(table.cases.map((testCase) => testCase.case));
const unknown = Object.keys(listed).filter((name) => !names.has(name));
check(unknown.length === 0, 'the listed differences are of known cases', unknown.join('; '));

for (const [number, testCase] of table.cases.entries()) {
  const eventId = `evt_node_${number}`;
  const { sent, header } = build(testCase, eventId);
  const theirs = libraryVerdict(sent, header);
  const ours = serverVerdict(await send(sent, header), eventId);
  const expected = listed[testCase.case];
  if (expected) {
    const ok = theirs !== ours && theirs === expected.theirs && ours === expected.ours;
    const wanted = `listed are ${expected.theirs} there, ${expected.ours} here`;
    check(ok, `${testCase.case}: ${theirs} there, ${ours} here, because ${expected.why}`, wanted);
  } else if (theirs === ours) {
    check(true, `${testCase.case}: ${ours} by both`);
  } else {
    check(false, `${testCase.case}: ${theirs} there, ${ours} here`, 'no difference is listed');
  }
}

appendFileSync(process.env.PEERS_TALLY, `${done} ${failed}\n`);
process.exitCode = failed ? 1 : 0;

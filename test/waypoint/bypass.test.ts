/**
 * G15, T86, T87: whatever a client writes, what a policy denies is not served. Real servers answer what the normaliser
 * made of each case; the same servers, asked without it, show that the corpus is worth something.
 */

import t from 'tap';

import type { HttpPolicy } from '../../src/core/http-policy.ts';
import { normaliseTarget, type RequestTarget } from '../../src/http/request-target.ts';
import { decideHttp, selectHttpPolicies } from '../../src/policy/decide-http.ts';
import { buildFacts, buildHttpPolicy, clause, texts } from '../policy/build-http.ts';
import { hostCorpus, pathCorpus } from './file-origins/bypass-corpus.ts';
import { createRoot, exchange, startFileOrigins } from './file-origins/file-origins.ts';
import { createRig } from './rig.ts';

const root = createRoot();
const { origins, missing } = await startFileOrigins(root.path);
t.teardown(() => {
  for (const origin of origins) origin.close();
  root.remove();
});
if (missing.length > 0) t.comment(`without ${missing.join(', ')}`);

const deny = (pattern: string): HttpPolicy =>
  buildHttpPolicy('DENY', [clause('to', { paths: texts(pattern) })]);
/** Each alone keeps `/admin/secret` from being served. */
const POLICIES: Readonly<Record<string, HttpPolicy>> = {
  exact: deny('/admin/secret'),
  prefix: deny('/admin*'),
  suffix: deny('*/secret'),
  'not allowed': buildHttpPolicy('ALLOW', [clause('to', { paths: texts('/public/*') })]),
  'denied but for': buildHttpPolicy('DENY', [clause('to', { notPaths: texts('/public/*') })]),
};

function normalise(target: string, host: string): RequestTarget | undefined {
  const raw = { method: 'GET', scheme: 'http', target, authority: undefined, hosts: [host] };
  const result = normaliseTarget(raw);
  return result.ok ? result.value : undefined;
}

function allows(policy: HttpPolicy, target: RequestTarget): boolean {
  const facts = { ...buildFacts(), target };
  return decideHttp(selectHttpPolicies([policy], undefined, true), facts).allowed;
}

const get = (path: string, host: string): string =>
  `GET ${path} HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`;

/** A few at a time. */
async function each<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  const work = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await act(item);
  };
  await Promise.all(Array.from({ length: 16 }, work));
}

t.test('G15 paths: 0 bypasses with defaults', { timeout: 300_000 }, async (t) => {
  const cases = pathCorpus();
  t.ok(cases.length >= 1_000, `${cases.length} paths`);
  const served = new Map<string, number>();
  const bypasses: string[] = [];
  let sent = 0;
  await each(cases, async (raw) => {
    for (const origin of origins) {
      if ((await exchange(origin.port, get(raw, 'app'))).includes('SECRET-PATH')) {
        served.set(origin.name, (served.get(origin.name) ?? 0) + 1);
      }
    }
    const target = normalise(raw, 'app');
    if (target === undefined) return;
    const letThrough = Object.keys(POLICIES).filter((name) => {
      const policy = POLICIES[name];
      return policy !== undefined && allows(policy, target);
    });
    if (letThrough.length === 0) return;
    for (const origin of origins) {
      sent++;
      const answer = await exchange(origin.port, get(target.path + target.query, target.authority));
      // `/admin/` is the directory's own page, and neither the exact path nor the suffix.
      const isSecret = answer.includes('SECRET-PATH') && !/^\/admin\/?$/.test(target.path);
      if (isSecret) bypasses.push(`${origin.name} ${letThrough.join()} ${JSON.stringify(raw)}`);
    }
  });
  for (const origin of origins) {
    const count = served.get(origin.name) ?? 0;
    t.ok(
      count >= 20,
      `${origin.name} serves the secret to ${count} of them when nobody is in between`,
    );
  }
  t.ok(sent > 100, `${sent} requests were let through and looked at`);
  t.strictSame(bypasses, []);
});

t.test('G15 hosts: 0 bypasses with defaults', { timeout: 300_000 }, async (t) => {
  const policy = buildHttpPolicy('DENY', [clause('to', { hosts: texts('secret.test') })]);
  const cases = hostCorpus();
  t.ok(cases.length >= 100, `${cases.length} hosts`);
  const withHosts = origins.filter(({ name }) => name !== 'python');
  const served = new Map<string, number>();
  const bypasses: string[] = [];
  await each(cases, async (raw) => {
    const target = normalise('/public/info.txt', raw);
    for (const origin of withHosts) {
      if ((await exchange(origin.port, get('/public/info.txt', raw))).includes('SECRET-HOST')) {
        served.set(origin.name, (served.get(origin.name) ?? 0) + 1);
      }
      if (target === undefined || !allows(policy, target)) continue;
      const answer = await exchange(origin.port, get(target.path, target.authority));
      if (answer.includes('SECRET-HOST')) bypasses.push(`${origin.name} ${JSON.stringify(raw)}`);
    }
  });
  for (const { name } of withHosts) {
    const count = served.get(name) ?? 0;
    t.ok(count >= 3, `${name} takes ${count} of them for the host`);
  }
  t.strictSame(bypasses, []);
});

t.test(
  'G15 through a waypoint: nothing denied reaches the application',
  { timeout: 300_000 },
  async (t) => {
    const [node] = origins;
    if (node === undefined) throw new Error('no origin');
    const rig = await createRig({ apps: [{ name: 'app', ports: [node.port] }] });
    t.teardown(() => rig.close());
    const policy = POLICIES['prefix'];
    if (policy === undefined) throw new Error('no policy');
    rig.guard.policies.apply([policy], [], true);
    const counts = { answered: 0, refused: 0, served: 0 };
    const leaks: string[] = [];
    await each(pathCorpus(), async (raw) => {
      const connection = await rig.open('app');
      const text = await new Promise<string>((resolve) => {
        let answer = '';
        connection.on('data', (chunk: Buffer) => void (answer += chunk.toString('latin1')));
        connection.on('error', () => resolve(answer));
        connection.on('end', () => connection.end());
        connection.on('close', () => resolve(answer));
        connection.write(Buffer.from(get(raw, 'app'), 'latin1'));
      });
      if (text !== '') counts.answered++;
      if (/^HTTP\/1\.1 40[03]/.test(text)) counts.refused++;
      if (text.startsWith('HTTP/1.1 200')) counts.served++;
      if (text.includes('SECRET')) leaks.push(JSON.stringify(raw));
    });
    t.strictSame(leaks, []);
    t.ok(counts.refused > 1_000, `${counts.refused} refused, ${counts.answered} answered`);
    t.comment(JSON.stringify(counts));
  },
);

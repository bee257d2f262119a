/** The store under a fake clock, over the real CA: fetching, sharing, renewing, backing off, forgetting. */

import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import { SIGN_TIMEOUT_MS, type SignedChain } from '../../src/identity/certificate-request.ts';
import {
  type CertificateChange,
  HELD_IDENTITIES_MAX,
  RETRY_WAIT_MAX_MS,
  SIGN_CONCURRENCY_MAX,
  WAITERS_MAX,
} from '../../src/identity/certificate-store.ts';
import { bundlePem } from '../../src/identity/trust-bundle.ts';
import { createTestCa, DAY_MS, HOUR_MS, issueTestCertificate, spiffeId } from './fixtures.ts';
import { createBench, type Bench } from './store-bench.ts';

const MINUTE_MS = 60_000;

const refusal = (): Promise<SignedChain> =>
  Promise.reject(new MeshError('MESH_CA_REFUSED', 'Cannot sign: not today'));
const never = (): Promise<SignedChain> => new Promise(() => {});
const web = spiffeId('web');

t.test('CertificateStore fetches a held identity once, whoever asks (single flight)', async (t) => {
  const bench = await createBench();
  bench.store.retain(web);
  bench.store.retain(web);
  const results = await Promise.all([bench.store.acquire(web), bench.store.acquire(web)]);
  t.same(bench.asked, [web]);
  t.equal(results[0], results[1]);
  t.equal(results[0]?.identity, web);
  t.equal(bench.store.get(web), results[0]);
  t.same(bench.store.certificates(), [results[0]]);
  t.equal(await bench.store.acquire(web), results[0], 'at once when there is one');
  t.match(bench.changes, [{ kind: 'issued', identity: web }]);
  t.equal(bench.store.bundle.generation, 1);
  t.equal(bench.counted.get('issued'), 1);
  bench.store.close();
  t.equal(bench.clock.pendingCount(), 0, 'no timer left');
});

t.test('CertificateStore gives nothing for an identity that nobody holds', async (t) => {
  const bench = await createBench();
  await t.rejects(bench.store.acquire(web), { code: 'MESH_CERTIFICATE_UNAVAILABLE' });
  t.same(bench.asked, []);
  t.throws(() => bench.store.retain('spiffe://x' as SpiffeId), { code: 'MESH_IDENTITY_INVALID' });
});

t.test('CertificateStore shares one failure among all who wait', async (t) => {
  const bench = await createBench();
  bench.answer = refusal;
  bench.store.retain(web);
  const errors = await Promise.all(
    [1, 2, 3].map(() => bench.store.acquire(web).catch((error: unknown) => error)),
  );
  t.match(errors[0], { code: 'MESH_CERTIFICATE_UNAVAILABLE', flag: 'IDENTITY_ERROR' });
  t.match((errors[0] as Error).cause, { code: 'MESH_CA_REFUSED' });
  t.equal(errors[1], errors[0]);
  t.equal(errors[2], errors[0]);
  t.equal(bench.counted.get('refused'), 1);
});

t.test(
  'CertificateStore backs off from 0.5 s to 150 s with jitter and starts small again',
  async (t) => {
    const bench = await createBench();
    const times: number[] = [];
    bench.answer = () => {
      times.push(bench.clock.nowMs());
      return refusal();
    };
    bench.store.retain(web);
    await bench.clock.advance(30 * MINUTE_MS);
    const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0));
    let boundMs = 1000;
    for (const gap of gaps) {
      t.ok(gap >= boundMs / 2 && gap <= boundMs, `${gap} within ${boundMs / 2} to ${boundMs}`);
      boundMs = Math.min(boundMs * 2, 150_000);
    }
    t.ok(gaps.length > 12);
    bench.answer = bench.sign;
    await bench.clock.advance(150_000);
    t.ok(bench.store.get(web));
    times.length = 0;
    bench.answer = () => {
      times.push(bench.clock.nowMs());
      return refusal();
    };
    await bench.clock.advance(13.5 * HOUR_MS);
    t.ok((times[1] ?? 0) - (times[0] ?? 0) <= 1000, 'small again after a success');
  },
);

t.test(
  'a connection waits for a retry that is near and fails at once when it is far',
  async (t) => {
    const bench = await createBench();
    bench.answer = refusal;
    bench.store.retain(web);
    await bench.clock.advance(1);
    bench.answer = bench.sign;
    const waiting = bench.store.acquire(web);
    await bench.clock.advance(1000);
    t.equal((await waiting).identity, web);
    const other = spiffeId('other');
    bench.answer = refusal;
    bench.store.retain(other);
    await bench.clock.advance(5 * MINUTE_MS);
    const askedBefore = bench.asked.length;
    const error = (await bench.store
      .acquire(other)
      .catch((reason: unknown) => reason)) as MeshError;
    t.equal(error.code, 'MESH_CERTIFICATE_UNAVAILABLE');
    t.equal(bench.asked.length, askedBefore, `not asked again within ${RETRY_WAIT_MAX_MS} ms`);
  },
);

t.test(
  'CertificateStore renews at 40 % to 50 % of the life and keeps the old one until then (T127)',
  async (t) => {
    for (let round = 0; round < 5; round++) {
      const bench = await createBench();
      // Each takes one of the chances.
      for (let other = 0; other < round; other++) bench.store.retain(spiffeId(`other${other}`));
      const retention = bench.store.retain(web);
      const first = await bench.store.acquire(web);
      await bench.clock.advance(24 * HOUR_MS * 0.4 - MINUTE_MS - 1000);
      t.equal(bench.store.get(web), first);
      await bench.clock.advance(24 * HOUR_MS * 0.1 + 2000);
      const second = bench.store.get(web);
      t.not(second?.serial, first.serial);
      t.not(second?.privateKeyPem, first.privateKeyPem, 'with a new key');
      retention.release();
      bench.store.close();
    }
  },
);

t.test('G05 whenever the CA goes away, certificates serve for another twelve hours', async (t) => {
  // Before, about and after the renewal, which chance puts elsewhere for each of them.
  const names = Array.from({ length: 4 }, (_, i) => spiffeId(`pod${i}`));
  for (const goneAfterH of [9.7, 12.1, 12.9]) {
    const bench = await createBench();
    for (const name of names) bench.store.retain(name);
    for (const name of names) await bench.store.acquire(name);
    await bench.clock.advance(goneAfterH * HOUR_MS);
    bench.answer = refusal;
    await bench.clock.advance(12 * HOUR_MS - 1000);
    const served = names.filter((name) => bench.store.get(name) !== undefined);
    t.same(served, names, `gone after ${goneAfterH} h`);
    bench.store.close();
  }
});

t.test(
  'a failed renewal keeps the certificate while it is valid, alarms at a third, then fails closed (T127)',
  async (t) => {
    const bench = await createBench();
    bench.store.retain(web);
    const first = await bench.store.acquire(web);
    bench.answer = refusal;
    await bench.clock.advance(23 * HOUR_MS);
    t.equal(bench.store.get(web), first);
    const alarms = bench.logged.filter(({ message }) => message.includes('near its end'));
    t.equal(alarms.length, 1);
    t.ok((bench.gauges.get('nodemesh_cert_expiry_seconds')?.() ?? 0) <= 3600);
    await bench.clock.advance(HOUR_MS + MINUTE_MS);
    t.equal(bench.store.get(web), undefined);
    t.same(bench.store.certificates(), []);
    t.match(bench.changes.at(-1), { kind: 'expired', identity: web });
    const error = await bench.store.acquire(web).catch((reason: unknown) => reason);
    t.match(error, { code: 'MESH_CERTIFICATE_EXPIRED', flag: 'IDENTITY_ERROR' });
    bench.answer = bench.sign;
    await bench.clock.advance(150_000);
    t.ok(bench.store.get(web), 'recovers by itself');
    t.match(bench.changes.at(-1), { kind: 'issued', identity: web });
  },
);

t.test(
  'CertificateStore asks for at most eight at once, connections before prefetches before renewals',
  async (t) => {
    const bench = await createBench();
    const old = spiffeId('old');
    bench.store.retain(old);
    await bench.store.acquire(old);
    const pending: (() => void)[] = [];
    bench.answer = (csr, identity) =>
      new Promise((resolve, reject) => {
        pending.push(() => void bench.sign(csr, identity).then(resolve, reject));
      });
    for (let index = 0; index < SIGN_CONCURRENCY_MAX; index++) {
      bench.store.retain(spiffeId(`first${index}`));
    }
    bench.store.reissueAll(0);
    await bench.clock.advance(1);
    bench.store.retain(spiffeId('prefetched'));
    bench.store.retain(spiffeId('wanted'));
    const wanted = bench.store.acquire(spiffeId('wanted'));
    t.equal(bench.asked.length, 1 + SIGN_CONCURRENCY_MAX);
    while (pending.length > 0) {
      pending.shift()?.();
      await bench.clock.advance(0);
    }
    t.same(bench.asked.slice(1 + SIGN_CONCURRENCY_MAX), [
      spiffeId('wanted'),
      spiffeId('prefetched'),
      old,
    ]);
    t.equal((await wanted).identity, spiffeId('wanted'));
  },
);

t.test('a signer that never answers is given up and holds no slot', async (t) => {
  const bench = await createBench();
  let aborted = 0;
  bench.answer = (_csr, _identity, signal) => {
    signal.addEventListener('abort', () => aborted++);
    return never();
  };
  for (let index = 0; index < 2 * SIGN_CONCURRENCY_MAX; index++) {
    bench.store.retain(spiffeId(`w${index}`));
  }
  const error = bench.store.acquire(spiffeId('w0')).catch((reason: unknown) => reason);
  await bench.clock.advance(SIGN_TIMEOUT_MS);
  t.match(await error, { cause: { code: 'MESH_DEADLINE_EXCEEDED' } });
  t.equal(aborted, SIGN_CONCURRENCY_MAX);
  t.equal(bench.counted.get('timeout'), SIGN_CONCURRENCY_MAX);
  bench.answer = bench.sign;
  await bench.clock.advance(SIGN_TIMEOUT_MS + 5000);
  t.equal(bench.store.certificates().length, 2 * SIGN_CONCURRENCY_MAX);
});

t.test('CertificateStore forgets an identity with its last release (T02)', async (t) => {
  const bench = await createBench();
  const one = bench.store.retain(web);
  const two = bench.store.retain(web);
  await bench.store.acquire(web);
  one.release();
  one.release();
  t.ok(bench.store.get(web), 'still held by the other');
  two.release();
  t.equal(bench.store.get(web), undefined);
  t.match(bench.changes.at(-1), { kind: 'forgotten', identity: web });
  await bench.clock.advance(2 * DAY_MS);
  t.equal(bench.asked.length, 1, 'never asked for again');
});

t.test(
  'a release during a request refuses who waits and drops the answer; holding again asks anew',
  async (t) => {
    const bench = await createBench();
    let signal: AbortSignal | undefined;
    bench.answer = (_csr, _identity, given) => {
      signal = given;
      return never();
    };
    const retention = bench.store.retain(web);
    const waiting = bench.store.acquire(web).catch((reason: unknown) => reason);
    retention.release();
    t.equal(signal?.aborted, true);
    bench.answer = bench.sign;
    bench.store.retain(web);
    t.match(await waiting, { code: 'MESH_CERTIFICATE_UNAVAILABLE' });
    t.equal((await bench.store.acquire(web)).identity, web);
    t.equal(bench.asked.length, 2);
  },
);

t.test('acquire ends with its signal, and the request goes on for the others', async (t) => {
  const bench = await createBench();
  let answer: (() => void) | undefined;
  bench.answer = (csr, identity) =>
    new Promise((resolve, reject) => {
      answer = () => void bench.sign(csr, identity).then(resolve, reject);
    });
  bench.store.retain(web);
  const abort = new AbortController();
  const first = bench.store.acquire(web, abort.signal).catch((reason: unknown) => reason);
  const second = bench.store.acquire(web);
  abort.abort(new Error('enough'));
  t.match(await first, { message: 'enough' });
  await t.rejects(bench.store.acquire(web, abort.signal), { message: 'enough' });
  answer?.();
  t.equal((await second).identity, web);
});

t.test(
  'CertificateStore believes no signer: wrong identity, key, chain or form is refused',
  async (t) => {
    const other = await createTestCa();
    const cases: readonly (readonly [string, (bench: Bench) => Bench['answer'], string])[] = [
      [
        'another identity',
        (bench) => (csr) => bench.sign(csr, spiffeId('admin')),
        'MESH_CERTIFICATE_INVALID',
      ],
      [
        'another key',
        (bench) => async () => ({
          chainPem: issueTestCertificate(bench.ca, web).chainPem,
          rootsPem: bench.ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [],
        }),
        'MESH_CERTIFICATE_INVALID',
      ],
      [
        'a chain to none of the roots',
        (bench) => async (csr, identity) => ({
          ...(await bench.sign(csr, identity)),
          rootsPem: other.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [],
        }),
        'MESH_CERTIFICATE_INVALID',
      ],
      [
        'rubbish',
        () => () => Promise.resolve({ chainPem: ['rubbish'], rootsPem: [] }),
        'MESH_DER_INVALID',
      ],
      [
        'rubbish as roots',
        (bench) => async (csr, identity) => ({
          ...(await bench.sign(csr, identity)),
          rootsPem: ['-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'],
        }),
        'MESH_DER_INVALID',
      ],
      [
        'an error that is none of ours',
        () => () => Promise.reject(new Error('socket hang up')),
        'MESH_CERTIFICATE_UNAVAILABLE',
      ],
    ];
    for (const [name, answer, code] of cases) {
      const bench = await createBench();
      bench.answer = answer(bench);
      bench.store.retain(web);
      const error = await bench.store.acquire(web).catch((reason: unknown) => reason);
      t.match(error, { code: 'MESH_CERTIFICATE_UNAVAILABLE', cause: { code } }, name);
      t.equal(bench.store.get(web), undefined, name);
      bench.store.close();
    }
  },
);

t.test('after reissueAll every certificate is replaced, one on its way too (T129)', async (t) => {
  const bench = await createBench();
  const names = ['a', 'b', 'c'].map((account) => spiffeId(account));
  for (const name of names) bench.store.retain(name);
  const before = await Promise.all(names.map((name) => bench.store.acquire(name)));
  let answer: (() => void) | undefined;
  bench.answer = (csr, identity) =>
    new Promise((resolve, reject) => {
      answer = () => void bench.sign(csr, identity).then(resolve, reject);
    });
  const late = spiffeId('late');
  bench.store.retain(late);
  bench.store.reissueAll();
  bench.answer = bench.sign;
  answer?.();
  const underWay = await bench.store.acquire(late);
  await bench.clock.advance(11_000);
  for (const [index, name] of names.entries()) {
    t.not(bench.store.get(name)?.serial, before[index]?.serial);
  }
  t.not(bench.store.get(late)?.serial, underWay.serial);
});

t.test('a certificate of a CA that is gone is replaced as soon as the roots say so', async (t) => {
  const bench = await createBench();
  const other = await createBench();
  bench.store.setRoots('cluster.local', bundlePem(bench.ca.bundle));
  bench.store.retain(web);
  const before = await bench.store.acquire(web);
  bench.answer = other.sign;
  bench.store.setRoots('cluster.local', bundlePem(other.ca.bundle));
  await bench.clock.advance(1);
  t.not(bench.store.get(web)?.serial, before.serial);
});

t.test('roots that are pushed count more than those that come with a chain', async (t) => {
  const bench = await createBench();
  const other = await createTestCa();
  const generations: number[] = [];
  bench.store.onBundle((bundle) => generations.push(bundle.generation));
  const own = bench.ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [];
  const next = other.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [];
  t.equal(bench.store.setRoots('cluster.local', [...own, ...next]).ok, true);
  bench.store.retain(web);
  await bench.store.acquire(web);
  t.equal(bench.store.bundle.domains.get('cluster.local')?.length, 2);
  t.equal(bench.store.setRoots('cluster.local', [...next, ...own]).ok, true, 'another order');
  t.equal(bench.store.setRoots('cluster.local', []).ok, false);
  t.equal(bench.store.setRoots('UPPER', own).ok, false);
  t.same(generations, [1]);
});

t.test(
  'a restored certificate serves at once and is renewed at half of its whole life',
  async (t) => {
    const bench = await createBench();
    const saved = issueTestCertificate(bench.ca, web);
    await bench.clock.advance(8 * HOUR_MS);
    bench.store.retain(web, saved);
    t.equal((await bench.store.acquire(web)).serial, saved.serial);
    t.match(bench.changes, [{ kind: 'issued', identity: web }]);
    await bench.clock.advance(2 * HOUR_MS);
    t.equal(bench.store.get(web)?.serial, saved.serial);
    t.same(bench.asked, []);
    await bench.clock.advance(4 * HOUR_MS);
    t.not(bench.store.get(web)?.serial, saved.serial);
    const stale = spiffeId('stale');
    const old = issueTestCertificate(bench.ca, stale, HOUR_MS);
    await bench.clock.advance(HOUR_MS);
    bench.store.retain(stale, old);
    t.not((await bench.store.acquire(stale)).serial, old.serial, 'an expired one is not used');
    const mixed = spiffeId('mixed');
    bench.store.retain(mixed, issueTestCertificate(bench.ca, web));
    t.equal((await bench.store.acquire(mixed)).identity, mixed, 'nor one of somebody else');
  },
);

t.test(
  'a calendar that jumps a day ahead ends certificates within 30 s and heals when it returns (T128)',
  async (t) => {
    const bench = await createBench();
    bench.store.retain(web);
    const first = await bench.store.acquire(web);
    const trueIssue = bench.sign;
    // The CA's clock stays right.
    bench.answer = async (csr, identity) => {
      bench.clock.jumpWall(-DAY_MS);
      try {
        return await trueIssue(csr, identity);
      } finally {
        bench.clock.jumpWall(DAY_MS);
      }
    };
    bench.clock.jumpWall(DAY_MS);
    t.equal(bench.store.get(web), undefined, 'at once where it is used');
    await bench.clock.advance(30_000);
    t.ok(bench.changes.some(({ kind }) => kind === 'expired'));
    const waiting = bench.store.acquire(web).catch((reason: unknown) => reason);
    await bench.clock.advance(5000);
    t.match(await waiting, { code: 'MESH_CERTIFICATE_EXPIRED' });
    t.ok(bench.asked.length < 20, 'no storm of requests');
    bench.clock.jumpWall(-DAY_MS);
    bench.answer = trueIssue;
    t.equal(bench.store.get(web)?.serial, first.serial);
    await bench.clock.advance(MINUTE_MS);
    t.match(bench.changes.at(-1), { kind: 'issued' });
  },
);

t.test(
  'a calendar a day behind still gets a certificate, reports it, and expiry is not put off (T128)',
  async (t) => {
    const bench = await createBench();
    const trueIssue = bench.sign;
    bench.answer = async (csr, identity) => {
      bench.clock.jumpWall(DAY_MS);
      try {
        return await trueIssue(csr, identity);
      } finally {
        bench.clock.jumpWall(-DAY_MS);
      }
    };
    bench.store.retain(web);
    const certificate = await bench.store.acquire(web);
    t.ok(certificate.notBeforeMs > bench.clock.wallMs());
    t.ok(bench.logged.some(({ message }) => message.includes('Clocks')));
    t.equal(Math.round(bench.gauges.get('nodemesh_cert_clock_skew_seconds')?.() ?? 0), -86_400);
    const quiet = await createBench();
    quiet.store.retain(web);
    await quiet.store.acquire(web);
    t.notOk(quiet.logged.some(({ message }) => message.includes('Clocks')));
    quiet.answer = refusal;
    quiet.clock.jumpWall(-DAY_MS);
    await quiet.clock.advance(24 * HOUR_MS + MINUTE_MS);
    t.equal(quiet.store.get(web), undefined, 'the monotonic clock ends it');
  },
);

t.test('a life longer than a timer can wait is renewed at its half all the same', async (t) => {
  let longestMs = 0;
  const bench = await createBench((clock) => ({
    ...clock,
    // No sweeps, which would find it too.
    every: () => ({ cancel: () => {} }),
    after: (delayMs, callback) => {
      longestMs = Math.max(longestMs, delayMs);
      return clock.after(delayMs, callback);
    },
  }));
  bench.ttlMs = 90 * DAY_MS;
  bench.store.retain(web);
  await bench.store.acquire(web);
  await bench.clock.advance(40 * DAY_MS);
  t.equal(bench.asked.length, 1);
  await bench.clock.advance(10 * DAY_MS);
  t.equal(bench.asked.length, 2);
  t.equal(longestMs, 0x7fffffff);
});

t.test('limits: identities held and connections that wait', async (t) => {
  const bench = await createBench();
  bench.answer = never;
  for (let index = 0; index < HELD_IDENTITIES_MAX; index++) {
    bench.store.retain(spiffeId(`w${index}`));
  }
  t.throws(() => bench.store.retain(spiffeId('more')), { code: 'MESH_LIMIT_EXCEEDED' });
  const waiting: Promise<unknown>[] = [];
  for (let index = 0; index < WAITERS_MAX; index++) {
    waiting.push(bench.store.acquire(spiffeId('w0')).catch((reason: unknown) => reason));
  }
  await t.rejects(bench.store.acquire(spiffeId('w0')), { code: 'MESH_LIMIT_EXCEEDED' });
  bench.store.close();
  t.match((await Promise.all(waiting)).at(-1), { code: 'MESH_CERTIFICATE_UNAVAILABLE' });
  t.throws(() => bench.store.retain(web), { code: 'MESH_CERTIFICATE_UNAVAILABLE' });
});

t.test('a listener that throws hurts nobody', async (t) => {
  const bench = await createBench();
  bench.store.onChange(() => {
    throw new Error('listener');
  });
  const seen: CertificateChange[] = [];
  const stop = bench.store.onChange((change) => seen.push(change));
  const retention = bench.store.retain(web);
  await bench.store.acquire(web);
  t.equal(seen.length, 1);
  stop();
  retention.release();
  t.equal(seen.length, 1);
});

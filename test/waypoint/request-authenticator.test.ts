/** T91: whose token a request carries, and everything that must not pass for one. */

import { createHmac } from 'node:crypto';

import { exportSPKI, importJWK } from 'jose';
import t from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import type { JwtRule } from '../../src/core/http-policy.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import { createJwksStore, STALE_MAX_MS } from '../../src/waypoint/jwks.ts';
import { createRequestAuthenticator } from '../../src/waypoint/request-authenticator.ts';
import { buildAuthentication, createSigner, ISSUER, keySet, sign } from './jwt-fixture.ts';

interface Rig {
  readonly clock: FakeClock;
  readonly nowS: number;
  /** What an answer would be: a principal, `nobody`, or `CODE: reason`. */
  ask(headers: HeaderList, query?: string): Promise<string>;
  bearer(token: string): Promise<string>;
  readonly fetches: string[];
  /** What the issuer answers; undefined: it is away. */
  document: string | undefined;
}

function createRig(rules: readonly Partial<JwtRule>[], document?: string): Rig {
  const clock = createFakeClock();
  const fetches: string[] = [];
  const jwks = createJwksStore({
    clock,
    random: createSeededRandom(1),
    logger: createNullLogger(),
    fetch: (url) => {
      fetches.push(url);
      return rig.document === undefined
        ? Promise.reject(new MeshError('MESH_JWKS_UNAVAILABLE', 'away'))
        : Promise.resolve(rig.document);
    },
  });
  const authenticator = createRequestAuthenticator(clock, jwks);
  const ask = async (headers: HeaderList, query: string = ''): Promise<string> => {
    const result = await authenticator.authenticate(undefined, headers, query);
    if (result instanceof MeshError) return `${result.code}: ${result.message}`;
    return result.principal?.principal ?? 'nobody';
  };
  const rig: Rig = {
    clock,
    nowS: clock.wallMs() / 1_000,
    ask,
    bearer: (token) => ask([['authorization', `Bearer ${token}`]]),
    fetches,
    document,
  };
  authenticator.apply([buildAuthentication(...rules)], [], true);
  return rig;
}

void t.test('T91 a token that verifies is a principal; none is nobody', async (t) => {
  const signer = await createSigner('one');
  const rig = createRig([{ jwks: keySet(signer) }]);
  t.equal(await rig.ask([]), 'nobody');
  t.equal(await rig.ask([['authorization', 'Basic YTpi']]), 'nobody');
  const token = await sign(signer, rig.nowS);
  t.equal(await rig.bearer(token), `${ISSUER}/alice`);
  t.equal(await rig.ask([['authorization', `bearer ${token}`]]), `${ISSUER}/alice`);
  t.equal(await rig.ask([], `?x=1&access_token=${token}`), `${ISSUER}/alice`);
  await rig.clock.advance(661_000);
  t.match(await rig.bearer(token), /^MESH_TOKEN_INVALID.*"exp"/, 'also when it was remembered');
});

void t.test('T91 signatures of every kind in the list', async (t) => {
  for (const alg of ['RS256', 'PS256', 'ES256', 'ES384', 'ES512', 'EdDSA']) {
    const signer = await createSigner('one', alg);
    const rig = createRig([{ jwks: keySet(signer) }]);
    t.equal(await rig.bearer(await sign(signer, rig.nowS)), `${ISSUER}/alice`, alg);
  }
});

void t.test('T91 corpus: what must not pass', async (t) => {
  const signer = await createSigner('one');
  const rsa = await createSigner('rsa', 'RS256');
  const other = await createSigner('one');
  const rig = createRig([{ jwks: keySet(signer, rsa), audiences: ['shop'] }]);
  const { nowS } = rig;
  const encode = (value: unknown): string =>
    Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { iss: ISSUER, sub: 'alice', aud: 'shop', exp: nowS + 600 };
  const good = await sign(signer, nowS);
  const [head = '', body = '', signature = ''] = good.split('.');
  // The public key as the secret of an HMAC: the classic confusion.
  const pem = await exportSPKI((await importJWK(rsa.jwk, 'RS256')) as CryptoKey);
  const confused = (secret: string): string => {
    const input = `${encode({ alg: 'HS256', kid: 'rsa' })}.${encode(claims)}`;
    return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`;
  };
  const corpus: Readonly<Record<string, string>> = {
    'no signature': `${encode({ alg: 'none' })}.${encode(claims)}.`,
    'none by another case': `${encode({ alg: 'nOnE', kid: 'one' })}.${encode(claims)}.`,
    'HS256 with the public key': confused(pem),
    'HS256 with the key set': confused(JSON.stringify(rsa.jwk)),
    'signed by somebody else': await sign(other, nowS),
    'another key id': await sign({ ...signer, kid: 'two' }, nowS),
    "an algorithm that is not the key's": `${encode({ alg: 'RS256', kid: 'one' })}.${body}.${signature}`,
    'claims changed': `${head}.${encode({ ...claims, sub: 'root' })}.${signature}`,
    'signature cut': `${head}.${body}.${signature.slice(0, -4)}`,
    'signature empty': `${head}.${body}.`,
    expired: await sign(signer, nowS, { exp: nowS - 61 }),
    'not yet': await sign(signer, nowS, { nbf: nowS + 120 }),
    'for somebody else': await sign(signer, nowS, { aud: 'bank' }),
    'for nobody': await sign(signer, nowS, { aud: undefined }),
    'of another issuer': await sign(signer, nowS, { iss: 'https://evil.test' }),
    'of no issuer': await sign(signer, nowS, { iss: undefined }),
    'unknown crit': await sign(signer, nowS, {}, { crit: ['x'], x: 1 }).catch(
      () => `${encode({ alg: 'ES256', kid: 'one', crit: ['x'], x: 1 })}.${body}.${signature}`,
    ),
    'its own key': `${encode({ alg: 'ES256', jwk: other.jwk })}.${body}.${(await sign(other, nowS)).split('.')[2]}`,
    'not a token': 'opaque',
    'two parts': `${head}.${body}`,
    'four parts': `${good}.x`,
    'not JSON': `${head}.bm90IGpzb24.${signature}`,
    huge: `${head}.${'a'.repeat(9_000)}.${signature}`,
  };
  for (const [name, token] of Object.entries(corpus)) {
    t.match(await rig.bearer(token), /^MESH_TOKEN_INVALID/, name);
  }
  t.equal(await rig.bearer(good), `${ISSUER}/alice`, 'and the good one still does');
  t.equal(await rig.bearer(await sign(signer, nowS, { aud: ['bank', 'shop'] })), `${ISSUER}/alice`);
});

void t.test('T91 two tokens are a contradiction', async (t) => {
  const signer = await createSigner('one');
  const rig = createRig([{ jwks: keySet(signer) }]);
  const token = await sign(signer, rig.nowS);
  const twice: HeaderList = [
    ['authorization', `Bearer ${token}`],
    ['authorization', 'Basic YTpi'],
  ];
  t.match(await rig.ask(twice), /more than one Authorization/);
  t.match(
    await rig.ask([['authorization', `Bearer ${token}`]], '?access_token=x'),
    /more than one token/,
  );
});

void t.test('tokens are found where the rules say', async (t) => {
  const signer = await createSigner('one');
  const jwks = keySet(signer);
  const rig = createRig([
    {
      jwks,
      fromHeaders: [{ name: 'x-jwt', prefix: '' }],
      fromParams: ['t'],
      fromCookies: ['session'],
    },
  ]);
  const token = await sign(signer, rig.nowS);
  t.equal(await rig.bearer(token), 'nobody', 'not where nobody looks');
  t.equal(await rig.ask([['x-jwt', token]]), `${ISSUER}/alice`);
  t.equal(await rig.ask([], `?t=${token}`), `${ISSUER}/alice`);
  t.equal(await rig.ask([['cookie', `a=b; session=${token}`]]), `${ISSUER}/alice`);
});

void t.test('T89 headers that carry claims are ours alone', async (t) => {
  const signer = await createSigner('one');
  const clock = createFakeClock();
  const parts = { clock, random: createSeededRandom(1), logger: createNullLogger() };
  const jwks = createJwksStore({ ...parts, fetch: () => Promise.reject(new Error('no')) });
  const authenticator = createRequestAuthenticator(clock, jwks);
  t.match(authenticator.authenticate(undefined, [], ''), { code: 'MESH_CONFIG_UNAVAILABLE' });
  authenticator.apply(
    [
      buildAuthentication({
        jwks: keySet(signer),
        outputPayloadHeader: 'x-payload',
        outputClaims: [
          { header: 'x-user', path: ['sub'] },
          { header: 'x-bad', path: ['bad'] },
        ],
        forwardToken: false,
      }),
    ],
    [],
    true,
  );
  const spoofed: HeaderList = [
    ['x-user', 'root'],
    ['x-payload', 'e30'],
    ['x-bad', '1'],
    ['a', 'b'],
  ];
  t.match(await authenticator.authenticate(undefined, spoofed, ''), {
    principal: undefined,
    headers: [['a', 'b']],
  });
  const token = await sign(signer, clock.wallMs() / 1_000, { bad: 'x\r\ny' });
  const headers: HeaderList = [...spoofed, ['authorization', `Bearer ${token}`]];
  t.match(await authenticator.authenticate(undefined, headers, ''), {
    headers: [
      ['a', 'b'],
      ['x-payload', token.split('.')[1]],
      ['x-user', 'alice'],
    ],
  });
  const broken = { ...buildAuthentication({}), unknown: 'field 99' };
  authenticator.apply([broken], [], false);
  t.match(authenticator.authenticate(undefined, [], ''), { code: 'MESH_CONFIG_UNAVAILABLE' });
  authenticator.apply([], [broken.key], false);
  t.equal(authenticator.size, 0);
  t.match(authenticator.authenticate(undefined, spoofed, ''), { headers: spoofed });
});

void t.test('T91 keys are fetched once for all who wait, ahead of the first request', async (t) => {
  const signer = await createSigner('one');
  const rig = createRig([{}], keySet(signer));
  t.strictSame(rig.fetches, ['https://issuer.test/keys']);
  const token = await sign(signer, rig.nowS);
  const answers = await Promise.all(Array.from({ length: 50 }, () => rig.bearer(token)));
  t.ok(answers.every((answer) => answer === `${ISSUER}/alice`));
  t.equal(rig.fetches.length, 1);
  await rig.clock.advance(7 * 60_000);
  t.equal(await rig.bearer(await sign(signer, rig.clock.wallMs() / 1_000)), `${ISSUER}/alice`);
  t.equal(rig.fetches.length, 2, 'refreshed in the background when old and used');
});

void t.test('T91 an unknown key id asks again, at most once in 30 s', async (t) => {
  const old = await createSigner('old');
  const fresh = await createSigner('fresh');
  const rig = createRig([{}], keySet(old));
  t.equal(await rig.bearer(await sign(old, rig.nowS)), `${ISSUER}/alice`);
  const token = await sign(fresh, rig.nowS);
  rig.document = keySet(old, fresh);
  t.match(await rig.bearer(token), /no key verifies/, 'asked just now');
  for (let i = 0; i < 20; i++) await rig.bearer(token);
  t.equal(rig.fetches.length, 1);
  await rig.clock.advance(31_000);
  t.equal(await rig.bearer(token), `${ISSUER}/alice`);
  t.equal(rig.fetches.length, 2);
});

void t.test('T91 an outage keeps the last keys for a day, then refuses', async (t) => {
  const signer = await createSigner('one');
  const rig = createRig([{}], keySet(signer));
  await rig.clock.advance(1);
  rig.document = undefined;
  const ask = async (): Promise<string> =>
    rig.bearer(await sign(signer, rig.clock.wallMs() / 1_000));
  await rig.clock.advance(STALE_MAX_MS - 60_000);
  t.equal(await ask(), `${ISSUER}/alice`);
  await rig.clock.advance(120_000);
  t.match(await ask(), /^MESH_JWKS_UNAVAILABLE/);
  rig.document = keySet(signer);
  await rig.clock.advance(61_000);
  t.equal(await ask(), `${ISSUER}/alice`, 'and is over when the issuer is back');
});

void t.test('T91 without any keys every token is refused, and fetches back off', async (t) => {
  const signer = await createSigner('one');
  const rig = createRig([{}]);
  const token = await sign(signer, rig.nowS);
  for (let i = 0; i < 100; i++) {
    t.match(await rig.bearer(token), /^MESH_JWKS_UNAVAILABLE/);
    await rig.clock.advance(100);
  }
  t.ok(rig.fetches.length < 10, `${rig.fetches.length} fetches in 10 s`);
  t.equal(await rig.ask([]), 'nobody', 'who brings none is still nobody');
  const bad = createRig([{ jwks: '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}' }]);
  t.match(await bad.bearer(token), /^MESH_JWKS_UNAVAILABLE/, 'shared secrets are not public keys');
  const broken = createRig([{}], '<html>');
  t.match(await broken.bearer(token), /^MESH_JWKS_UNAVAILABLE/);
});

void t.test('T91 keys without ids are tried one after the other', async (t) => {
  const one = await createSigner('');
  const two = await createSigner('');
  const bare = [one, two].map(({ jwk }) => ({ ...jwk, kid: undefined }));
  const rig = createRig([{ jwks: JSON.stringify({ keys: bare }) }]);
  t.equal(await rig.bearer(await sign(two, rig.nowS, {}, { kid: undefined })), `${ISSUER}/alice`);
  const third = await createSigner('');
  t.match(await rig.bearer(await sign(third, rig.nowS, {}, { kid: undefined })), /no key verifies/);
});

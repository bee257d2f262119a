/** L7 policies and request authentication on the wire. */

import { isDeepStrictEqual } from 'node:util';

import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import type { HttpPolicy, HttpPolicyMatch, JwtRule } from '../../src/core/http-policy.ts';
import type { StringMatch } from '../../src/core/policy.ts';
import { serviceKey } from '../../src/core/workload.ts';
import {
  decodeHttpPolicy,
  decodeRequestAuthentication,
  httpPolicyResource,
  requestAuthenticationResource,
} from '../../src/discovery/codec-http-policy.ts';
import {
  HttpPolicySchema,
  RequestAuthenticationSchema,
} from '../../src/discovery/gen/nodemesh/v1/http_policy_pb.ts';
import { cidr } from '../policy/build.ts';
import { buildHttpMatch } from '../policy/build-http.ts';

const word = fc.stringMatching(/^[a-z0-9/._-]{1,12}$/);
const text: fc.Arbitrary<StringMatch> = fc.oneof(
  fc.record({ kind: fc.constantFrom('exact', 'prefix', 'suffix'), value: word }),
  fc.constant({ kind: 'presence' as const }),
);
const texts = fc.array(text, { maxLength: 3 });
const blocks = fc.subarray([cidr('10.0.0.0/8'), cidr('fd00::/8'), cidr('192.0.2.1')]);
const named = { values: texts, notValues: texts };
const match: fc.Arbitrary<HttpPolicyMatch> = fc
  .record({
    methods: texts,
    notMethods: texts,
    paths: texts,
    notPaths: texts,
    hosts: texts,
    notHosts: texts,
    requestPrincipals: texts,
    notRequestPrincipals: texts,
    principals: texts,
    sourceIps: blocks,
    remoteIps: blocks,
    notRemoteIps: blocks,
    headers: fc.array(fc.record({ name: word, ...named }), { maxLength: 2 }),
    claims: fc.array(
      fc.record({ path: fc.array(word, { minLength: 1, maxLength: 3 }), ...named }),
      { maxLength: 2 },
    ),
  })
  .map(buildHttpMatch);
const services = fc.subarray([serviceKey('shop', 'a.shop'), serviceKey('shop', 'b.shop')]);
const policy: fc.Arbitrary<HttpPolicy> = fc.record({
  key: fc.constant('shop/p'),
  name: fc.constant('p'),
  namespace: fc.constant('shop'),
  action: fc.constantFrom('ALLOW', 'DENY', 'AUDIT'),
  rules: fc.array(
    fc.record({
      clauses: fc.array(fc.record({ label: word, matches: fc.array(match, { maxLength: 2 }) }), {
        maxLength: 3,
      }),
    }),
    { maxLength: 3 },
  ),
  services,
  dryRun: fc.boolean(),
  explain: fc.boolean(),
  unknown: fc.constant(''),
});
const jwtRule: fc.Arbitrary<JwtRule> = fc.record({
  issuer: word,
  audiences: fc.array(word, { maxLength: 2 }),
  jwks: fc.constant(''),
  jwksUri: word,
  fromHeaders: fc.array(fc.record({ name: word, prefix: word }), { maxLength: 2 }),
  fromParams: fc.array(word, { maxLength: 2 }),
  fromCookies: fc.array(word, { maxLength: 2 }),
  outputPayloadHeader: word,
  outputClaims: fc.array(
    fc.record({ header: word, path: fc.array(word, { minLength: 1, maxLength: 2 }) }),
    { maxLength: 2 },
  ),
  forwardToken: fc.boolean(),
  timeoutMs: fc.nat(10_000),
});

/** Generated objects have no prototype. */
function isDeepEqual(a: unknown, b: unknown): boolean {
  const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
  return isDeepStrictEqual(plain(a), plain(b));
}

void t.test('property: what is written is read', (t) => {
  fc.assert(
    fc.property(policy, (value) => {
      const read = unwrap(decodeHttpPolicy(httpPolicyResource(value).body));
      if (!isDeepEqual(read, value)) throw new Error(JSON.stringify(read));
    }),
    { numRuns: 200 },
  );
  fc.assert(
    fc.property(fc.array(jwtRule, { maxLength: 3 }), services, (rules, keys) => {
      const unknown = rules.length === 0 ? 'it cannot be read' : '';
      const shared = { key: 'shop/j', name: 'j', namespace: 'shop', unknown };
      const value = { ...shared, rules, services: keys };
      const { body } = requestAuthenticationResource(value);
      const read = unwrap(decodeRequestAuthentication(body));
      if (!isDeepEqual(read, value)) throw new Error(JSON.stringify(read));
    }),
    { numRuns: 200 },
  );
  t.pass('held for 400 values');
  t.end();
});

void t.test('property: any bytes are a value or an error', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      decodeHttpPolicy(bytes);
      decodeRequestAuthentication(bytes);
    }),
    { numRuns: 2_000 },
  );
  t.pass('2,000 texts');
  t.end();
});

void t.test('T104 what is not understood is said, not dropped', (t) => {
  const named = { name: 'p', namespace: 'shop' };
  const decode = (init: Parameters<typeof create<typeof HttpPolicySchema>>[1]): string => {
    const result = decodeHttpPolicy(toBinary(HttpPolicySchema, create(HttpPolicySchema, init)));
    return result.ok ? result.value.unknown : result.error.message;
  };
  t.equal(decode(named), '');
  t.equal(decode({ ...named, action: 9 as never }), 'action 9');
  t.match(
    decode({ ...named, rules: [{ clauses: [{ matches: [{ paths: [{}] }] }] }] }),
    /no known kind/,
  );
  t.match(decode({ name: 'p' }), /namespace/);
  const body = toBinary(HttpPolicySchema, create(HttpPolicySchema, named));
  // Field 99, a varint.
  const extended = Buffer.concat([body, Buffer.from([0x98, 0x06, 0x01])]);
  t.match(unwrap(decodeHttpPolicy(extended)).unknown, /field 99/);
  const jwt = toBinary(
    RequestAuthenticationSchema,
    create(RequestAuthenticationSchema, { ...named, rules: [{ issuer: 'i' }] }),
  );
  t.match(unwrap(decodeRequestAuthentication(jwt)).unknown, /jwks/);
  t.end();
});

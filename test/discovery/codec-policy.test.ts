import { isDeepStrictEqual } from 'node:util';

import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import {
  decodeAuditPolicy,
  decodeAuthorization,
  encodePolicy,
  POLICY_PARTS_MAX,
  policyResource,
  policyTypeUrl,
} from '../../src/discovery/codec-policy.ts';
import {
  AuthorizationSchema,
  type RuleSchema,
} from '../../src/discovery/gen/istio/security/authorization_pb.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { policy } from './arbitraries.ts';

const named = { name: 'deny-all', namespace: 'shop', scope: 1 } as const;
const encodeRaw = (value: MessageInitShape<typeof AuthorizationSchema>): Uint8Array =>
  toBinary(AuthorizationSchema, create(AuthorizationSchema, value));
const oneMatch = (match: object): { rules: MessageInitShape<typeof RuleSchema>[] } => ({
  rules: [{ clauses: [{ matches: [match] }] }],
});

void t.test('policy codec returns every policy it encoded', async () => {
  fc.assert(
    fc.property(policy, (one) => {
      const decode = one.action === 'AUDIT' ? decodeAuditPolicy : decodeAuthorization;
      return isDeepStrictEqual(unwrap(decode(encodePolicy(one))), one);
    }),
    { numRuns: 300 },
  );
});

void t.test('policy travels under the type of its action, named by its key', async () => {
  fc.assert(
    fc.property(policy, (one) => {
      const type = one.action === 'AUDIT' ? TYPE_URL.auditPolicy : TYPE_URL.authorization;
      return policyTypeUrl(one) === type && policyResource(one).name === one.key;
    }),
  );
});

void t.test('policy decoding survives hostile bytes', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      decodeAuthorization(bytes);
      decodeAuditPolicy(bytes);
    }),
    { numRuns: 2_000 },
  );
  fc.assert(
    fc.property(policy, fc.nat(), fc.nat({ max: 255 }), (one, at, byte) => {
      const bytes = encodePolicy(one);
      bytes[at % bytes.length] = byte;
      decodeAuthorization(bytes);
    }),
    { numRuns: 1_000 },
  );
});

void t.test('policy with anything not understood says so (T104)', async (t) => {
  const extension = { name: 'future' };
  const cases: [string, Uint8Array][] = [
    ['action', encodeRaw({ ...named, action: 7 as 1 })],
    ['scope', encodeRaw({ ...named, scope: 7 as 1 })],
    ['extension of the policy', encodeRaw({ ...named, extensions: [extension] })],
    ['extension of a match', encodeRaw({ ...named, ...oneMatch({ extensions: [extension] }) })],
    ['string match', encodeRaw({ ...named, ...oneMatch({ principals: [{}] }) })],
    ['field', Buffer.concat([encodeRaw(named), Buffer.from([0x78, 1])])],
    // rules { clauses { matches { field 14: 1 } } }
    ['field of a match', Buffer.concat([encodeRaw(named), Buffer.from('2a060a0412027001', 'hex')])],
  ];
  for (const [name, bytes] of cases) {
    t.not(unwrap(decodeAuthorization(bytes)).unknown, '', name);
  }
  t.equal(unwrap(decodeAuthorization(encodeRaw(named))).unknown, '');
});

void t.test('policy keeps the name a foreign control plane gave it', async (t) => {
  const bytes = encodeRaw({ name: 'static_strict', namespace: 'istio-system', scope: 0 });
  t.match(unwrap(decodeAuthorization(bytes)), {
    key: 'istio-system/static_strict',
    namespace: '',
    scope: 'GLOBAL',
  });
});

void t.test('policy decoding refuses what is out of bounds', async (t) => {
  const ports = Array.from({ length: POLICY_PARTS_MAX }, () => 80);
  const refused: [string, MessageInitShape<typeof AuthorizationSchema>][] = [
    ['no name', { ...named, name: '' }],
    ['no namespace', { ...named, namespace: '' }],
    [
      'prefix too long',
      { ...named, ...oneMatch({ sourceIps: [{ address: new Uint8Array(4), length: 33 }] }) },
    ],
    ['port 0', { ...named, ...oneMatch({ destinationPorts: [0] }) }],
    ['parts', { ...named, ...oneMatch({ destinationPorts: ports }) }],
  ];
  for (const [name, value] of refused) {
    const result = decodeAuthorization(encodeRaw(value));
    t.match(result, { ok: false, error: { code: 'MESH_MESSAGE_INVALID' } }, name);
  }
});

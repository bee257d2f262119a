import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import {
  addressName,
  decodeAddress,
  encodeService,
  encodeWorkload,
  serviceResource,
  WORKLOAD_ADDRESSES_MAX,
  workloadResource,
} from '../../src/discovery/codec-workload.ts';
import {
  AddressSchema,
  type ServiceSchema,
  type WorkloadSchema,
} from '../../src/discovery/gen/istio/workload/workload_pb.ts';
import { isDeepStrictEqual } from 'node:util';
import { service, workload } from './arbitraries.ts';

const encodeRaw = (value: MessageInitShape<typeof WorkloadSchema>): Uint8Array =>
  toBinary(AddressSchema, create(AddressSchema, { type: { case: 'workload', value } }));
const encodeRawService = (value: MessageInitShape<typeof ServiceSchema>): Uint8Array =>
  toBinary(AddressSchema, create(AddressSchema, { type: { case: 'service', value } }));
const base = { uid: 'c//Pod/shop/cart', namespace: 'shop' };

void t.test('workload codec returns every workload it encoded', async () => {
  fc.assert(
    fc.property(workload, (one) => {
      const back = unwrap(decodeAddress(encodeWorkload(one)));
      return isDeepStrictEqual(back, { kind: 'workload', workload: one });
    }),
    { numRuns: 300 },
  );
});

void t.test('service codec returns every service it encoded', async () => {
  fc.assert(
    fc.property(service, (one) => {
      const back = unwrap(decodeAddress(encodeService(one)));
      return isDeepStrictEqual(back, { kind: 'service', service: one });
    }),
    { numRuns: 300 },
  );
});

void t.test('workload bytes do not depend on the order in which services were found', async () => {
  fc.assert(
    fc.property(workload, (one) => {
      const services = new Map([...one.services].toReversed());
      return Buffer.compare(encodeWorkload(one), encodeWorkload({ ...one, services })) === 0;
    }),
  );
});

void t.test('address decoding survives hostile bytes', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      decodeAddress(bytes);
    }),
    { numRuns: 2_000 },
  );
  fc.assert(
    fc.property(workload, fc.nat(), fc.nat({ max: 255 }), (one, at, byte) => {
      const bytes = encodeWorkload(one);
      bytes[at % bytes.length] = byte;
      decodeAddress(bytes);
    }),
    { numRuns: 1_000 },
  );
});

void t.test('workload decoding fills what Istio leaves out', async (t) => {
  const value = unwrap(decodeAddress(encodeRaw(base)));
  t.match(value, {
    kind: 'workload',
    workload: {
      trustDomain: 'cluster.local',
      serviceAccount: 'default',
      capacity: 1,
      tunnelProtocol: 'none',
      localDelivery: false,
      healthy: true,
    },
  });
  const waypoint = {
    destination: { case: 'hostname' as const, value: { namespace: 'a', hostname: 'b' } },
  };
  const withWaypoint = unwrap(decodeAddress(encodeRaw({ ...base, waypoint })));
  t.match(withWaypoint, { workload: { waypoint: { hbonePort: 15008 } } });
});

void t.test('workload decoding refuses what would send bytes astray', async (t) => {
  const refused: [string, MessageInitShape<typeof WorkloadSchema>][] = [
    ['no uid', { namespace: 'shop' }],
    ['bad namespace', { ...base, namespace: 'Shop' }],
    ['legacy tunnel', { ...base, tunnelProtocol: 2 }],
    ['unknown tunnel', { ...base, tunnelProtocol: 9 as 2 }],
    ['unknown network mode', { ...base, networkMode: 9 as 1 }],
    ['bad trust domain', { ...base, trustDomain: 'a/b' }],
    ['bad account', { ...base, serviceAccount: '../x' }],
    ['address of 5 bytes', { ...base, addresses: [new Uint8Array(5)] }],
    [
      'too many addresses',
      {
        ...base,
        addresses: Array.from({ length: WORKLOAD_ADDRESSES_MAX + 1 }, () => new Uint8Array(4)),
      },
    ],
    ['waypoint nowhere', { ...base, waypoint: {} }],
    ['port 0', { ...base, services: { 'a/b': { ports: [{ servicePort: 0 }] } } }],
    ['port 65536', { ...base, services: { 'a/b': { ports: [{ servicePort: 65_536 }] } } }],
    ['service key', { ...base, services: { ab: { ports: [] } } }],
    ['long name', { ...base, name: 'x'.repeat(1_301) }],
  ];
  for (const [name, value] of refused) {
    const result = decodeAddress(encodeRaw(value));
    t.match(result, { ok: false, error: { code: 'MESH_MESSAGE_INVALID' } }, name);
  }
  t.equal(decodeAddress(new Uint8Array()).ok, false, 'neither');
  t.equal(decodeAddress(new Uint8Array(1_048_577)).ok, false, 'too large');
});

void t.test('service decoding never reads a declared waypoint as none (T103)', async (t) => {
  const named = { namespace: 'shop', hostname: 'cart' };
  const to = (hostname: string): object => ({
    destination: { case: 'hostname', value: { namespace: 'shop', hostname } },
  });
  t.equal(decodeAddress(encodeRawService({ ...named, waypoint: {} })).ok, false);
  t.equal(decodeAddress(encodeRawService({ ...named, weightedWaypoints: [{}] })).ok, false);
  const weighted = [
    { destination: to('light'), weight: 1 },
    { destination: to('heavy'), weight: 9 },
  ];
  const value = unwrap(decodeAddress(encodeRawService({ ...named, weightedWaypoints: weighted })));
  t.match(value, { service: { waypoint: { target: { hostname: 'heavy' } } } });
});

void t.test('service decoding reads blocks canonically', async (t) => {
  const mapped = Buffer.from('00000000000000000000ffff0a010203', 'hex');
  const value = unwrap(
    decodeAddress(
      encodeRawService({
        namespace: 'shop',
        hostname: 'cart',
        addresses: [{ address: Uint8Array.from(mapped), length: 104 }, { address: mapped }],
        visibility: 7 as 1,
      }),
    ),
  );
  t.match(value, {
    service: {
      vips: [
        { cidr: { ip: '10.0.0.0', prefixLength: 8 } },
        { cidr: { ip: '10.1.2.3', prefixLength: 32 } },
      ],
      visibility: 'NAMESPACE',
    },
  });
  const short = encodeRawService({
    namespace: 'shop',
    hostname: 'cart',
    addresses: [{ address: mapped, length: 40 }],
  });
  t.equal(decodeAddress(short).ok, false);
});

void t.test('addresses travel under uid or service key, with network/ip as alias', async () => {
  fc.assert(
    fc.property(workload, service, (one, other) => {
      const first = workloadResource(one);
      const second = serviceResource(other);
      const names = [first, second].map((r) => addressName(unwrap(decodeAddress(r.body))));
      return (
        isDeepStrictEqual(names, [first.name, second.name]) &&
        first.aliases.length === (one.hostNetwork ? 0 : one.addresses.length) &&
        isDeepStrictEqual(first.groups, [...one.services.keys()])
      );
    }),
  );
});

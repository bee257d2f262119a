/** Random values of the vocabulary, canonical as the decoders return them. */

import fc from 'fast-check';

import { unwrap } from '../../src/base/result.ts';
import {
  addressBytes,
  addressFromBytes,
  type Cidr,
  type IpAddress,
} from '../../src/core/address.ts';
import type { LocalPod, PodUid } from '../../src/core/pod.ts';
import type { Policy, PolicyMatch, StringMatch } from '../../src/core/policy.ts';
import {
  APP_PROTOCOLS,
  BALANCING_SCOPES,
  serviceKey,
  WORKLOAD_TYPES,
  type GatewayAddress,
  type Service,
  type ServicePort,
  type Workload,
} from '../../src/core/workload.ts';

/** Plain objects only: a deep comparison tells a null prototype apart. */
export function record<T>(shape: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record<T>(shape, { noNullPrototype: true });
}

export const label: fc.Arbitrary<string> = fc.stringMatching(
  /^[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?$/,
);
const text = fc.string({ maxLength: 20 });
const port = fc.integer({ min: 1, max: 65_535 });
const ip: fc.Arbitrary<IpAddress> = fc
  .oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
  )
  .map((bytes) => unwrap(addressFromBytes(bytes)));

const cidr: fc.Arbitrary<Cidr> = fc.tuple(ip, fc.nat({ max: 128 })).map(([address, bits]) => {
  const bytes = addressBytes(address);
  const prefixLength = Math.min(bits, bytes.length * 8);
  for (let bit = prefixLength; bit < bytes.length * 8; bit++) {
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) & ~(0x80 >> (bit & 7));
  }
  // Clearing bits can make an IPv6 address IPv4-mapped only when it was; the canonical form stays.
  return { ip: unwrap(addressFromBytes(bytes)), prefixLength };
});

const servicePort: fc.Arbitrary<ServicePort> = record({
  servicePort: port,
  targetPort: fc.nat({ max: 65_535 }),
  appProtocol: fc.constantFrom(...APP_PROTOCOLS),
});

const gateway: fc.Arbitrary<GatewayAddress> = record({
  target: fc.oneof(
    record({ kind: fc.constant('address' as const), network: text, ip }),
    record({ kind: fc.constant('hostname' as const), namespace: label, hostname: label }),
  ),
  hbonePort: port,
});

export const workload: fc.Arbitrary<Workload> = record({
  uid: fc.string({ minLength: 1, maxLength: 30 }),
  name: text,
  namespace: label,
  addresses: fc.array(ip, { maxLength: 3 }),
  hostname: text,
  network: text,
  tunnelProtocol: fc.constantFrom('none' as const, 'hbone' as const),
  trustDomain: label,
  serviceAccount: label,
  node: text,
  canonicalName: text,
  canonicalRevision: text,
  workloadType: fc.constantFrom(...WORKLOAD_TYPES),
  workloadName: text,
  services: fc
    .array(fc.tuple(label, label, fc.array(servicePort, { maxLength: 3 })), { maxLength: 3 })
    .map((list) => new Map(list.map(([ns, host, ports]) => [serviceKey(ns, host), ports]))),
  authorizationPolicies: fc.array(fc.string({ minLength: 1, maxLength: 20 }), { maxLength: 3 }),
  healthy: fc.boolean(),
  clusterId: text,
  locality: record({ region: text, zone: text, subzone: text }),
  hostNetwork: fc.boolean(),
  waypoint: fc.option(gateway, { nil: undefined }),
  networkGateway: fc.option(gateway, { nil: undefined }),
  nativeTunnel: fc.boolean(),
  capacity: fc.nat({ max: 1_000 }),
  localDelivery: fc.boolean(),
});

export const service: fc.Arbitrary<Service> = record({
  name: text,
  namespace: label,
  hostname: label,
  vips: fc.array(record({ network: text, cidr }), { maxLength: 3 }),
  ports: fc.array(servicePort, { maxLength: 3 }),
  subjectAltNames: fc.array(text, { maxLength: 3 }),
  waypoint: fc.option(gateway, { nil: undefined }),
  balancing: record({
    preference: fc.array(fc.constantFrom(...BALANCING_SCOPES), { maxLength: 7 }),
    mode: fc.constantFrom('UNSPECIFIED', 'STRICT', 'FAILOVER', 'PASSTHROUGH'),
    includeUnhealthy: fc.boolean(),
  }),
  clientAffinity: fc.boolean(),
  ipFamilies: fc.constantFrom('AUTOMATIC', 'IPV4_ONLY', 'IPV6_ONLY', 'DUAL'),
  canonical: fc.boolean(),
  visibility: fc.constantFrom('PUBLIC', 'NAMESPACE'),
}).map((one) => ({ key: serviceKey(one.namespace, one.hostname), ...one }));

const stringMatch: fc.Arbitrary<StringMatch> = fc.oneof(
  record({ kind: fc.constantFrom('exact', 'prefix', 'suffix'), value: text }),
  record({ kind: fc.constant('presence' as const) }),
);

const few = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(one, { maxLength: 2 });
const accountMatch = record({ namespace: text, serviceAccount: text });

const match: fc.Arbitrary<PolicyMatch> = record({
  namespaces: few(stringMatch),
  notNamespaces: few(stringMatch),
  principals: few(stringMatch),
  notPrincipals: few(stringMatch),
  serviceAccounts: few(accountMatch),
  notServiceAccounts: few(accountMatch),
  sourceIps: few(cidr),
  notSourceIps: few(cidr),
  destinationIps: few(cidr),
  notDestinationIps: few(cidr),
  destinationPorts: few(port),
  notDestinationPorts: few(port),
});

export const policy: fc.Arbitrary<Policy> = record({
  name: label,
  namespace: label,
  scope: fc.constantFrom('GLOBAL' as const, 'NAMESPACE' as const, 'WORKLOAD_SELECTOR' as const),
  action: fc.constantFrom('ALLOW' as const, 'DENY' as const, 'AUDIT' as const),
  rules: few(record({ clauses: few(record({ matches: few(match) })) })),
  dryRun: fc.boolean(),
}).map((one) => {
  const namespace = one.scope === 'GLOBAL' ? '' : one.namespace;
  return { ...one, namespace, key: `${namespace}/${one.name}`, unknown: '' };
});

export const podUid: fc.Arbitrary<PodUid> = fc.uuid().map((uuid) => uuid as PodUid);

export const localPod: fc.Arbitrary<LocalPod> = record({
  podUid,
  name: label,
  namespace: label,
  serviceAccount: label,
  trustDomain: label,
  workloadUid: text,
  addresses: few(ip),
  enrolled: fc.boolean(),
  probePorts: few(port),
});

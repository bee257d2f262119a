import { isDeepStrictEqual } from 'node:util';

import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';

import { unwrap, type Result } from '../../src/base/result.ts';
import { formatIdentity } from '../../src/core/identity.ts';
import {
  captureReportResource,
  capturedPodResource,
  decodeCapturedPod,
  decodeCaptureReport,
  decodeListenerReport,
  decodeLocalPod,
  decodeNodeSettings,
  decodeTrafficDelta,
  decodeTrustBundle,
  decodeWorkloadSecret,
  listenerReportResource,
  localPodResource,
  nodeSettingsResource,
  trafficDeltaResource,
  trustBundleResource,
  workloadSecretResource,
} from '../../src/discovery/codec-local.ts';
import {
  CaptureReportSchema,
  NodeSettingsSchema,
  TrafficDeltaSchema,
} from '../../src/discovery/gen/nodemesh/v1/node_pb.ts';
import type { WireResource } from '../../src/discovery/wire-resource.ts';
import { label, localPod, podUid, record } from './arbitraries.ts';

const text = fc.string({ maxLength: 20 });
const filled = fc.string({ minLength: 1, maxLength: 20 });
const safe = fc.nat({ max: Number.MAX_SAFE_INTEGER });

function roundTrips<T>(
  one: fc.Arbitrary<T>,
  encode: (value: T) => WireResource,
  decode: (body: Uint8Array) => Result<T>,
): void {
  fc.assert(
    fc.property(one, (value) => isDeepStrictEqual(unwrap(decode(encode(value).body)), value)),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      decode(bytes);
    }),
    { numRuns: 500 },
  );
}

void t.test('own types return as they were encoded, and hostile bytes never throw', async () => {
  roundTrips(localPod, localPodResource, decodeLocalPod);
  roundTrips(
    record({ pod: localPod, netnsPath: filled, netnsInode: safe }),
    capturedPodResource,
    decodeCapturedPod,
  );
  roundTrips(
    record({
      localDelivery: fc.constantFrom('auto' as const, 'tunnel' as const),
      node: text,
      clusterId: text,
      network: text,
      region: text,
      zone: text,
      subzone: text,
      trustDomain: label,
    }),
    nodeSettingsResource,
    decodeNodeSettings,
  );
  roundTrips(
    record({
      identity: record({ trustDomain: label, namespace: label, serviceAccount: label }).map(
        formatIdentity,
      ),
      privateKeyPem: filled,
      chainPems: fc.array(filled, { maxLength: 3 }),
      notBeforeMs: safe,
      notAfterMs: safe,
    }),
    workloadSecretResource,
    decodeWorkloadSecret,
  );
  roundTrips(
    record({
      trustDomain: label,
      rootPems: fc.array(filled, { maxLength: 3 }),
      generation: safe,
      issuingRootFingerprint: fc.constantFrom('', 'ab'.repeat(32)),
    }),
    trustBundleResource,
    decodeTrustBundle,
  );
  roundTrips(
    record({
      podUid,
      state: fc.constantFrom('captured' as const, 'pending' as const, 'failed' as const),
      reason: text,
    }),
    captureReportResource,
    decodeCaptureReport,
  );
  roundTrips(
    record({ podUid, listening: fc.boolean(), reason: text }),
    listenerReportResource,
    decodeListenerReport,
  );
  roundTrips(
    record({
      worker: filled,
      sequence: safe,
      counters: fc.array(
        record({
          metric: filled,
          labels: fc.array(text, { maxLength: 3 }),
          value: fc.nat(),
        }),
        { maxLength: 3 },
      ),
    }),
    trafficDeltaResource,
    decodeTrafficDelta,
  );
});

void t.test('a counter delta that would spoil a total is refused', async (t) => {
  for (const value of [Number.NaN, -1, Infinity]) {
    const message = create(TrafficDeltaSchema, { worker: 'w', counters: [{ metric: 'm', value }] });
    t.equal(decodeTrafficDelta(toBinary(TrafficDeltaSchema, message)).ok, false);
  }
});

void t.test('unknown values of our own enums are refused', async (t) => {
  const settings = create(NodeSettingsSchema, { trustDomain: 'a', localDelivery: 9 as 1 });
  t.equal(decodeNodeSettings(toBinary(NodeSettingsSchema, settings)).ok, false);
  const report = create(CaptureReportSchema, { podUid: 'a', state: 9 as 1 });
  t.equal(decodeCaptureReport(toBinary(CaptureReportSchema, report)).ok, false);
});

import t from 'tap';

import { emptyState, at, service, workload, ip, NETWORK } from './build.ts';

const PODS = 100_000;
const SERVICES = 2_000;
/** What a worker applies between two looks at its event loop. */
const SLICE = 500;

/** A string of its own, as decoding makes them: equal text must not be shared by accident. */
const fresh = (text: string): string => Buffer.from(text).toString('latin1');

void t.test('state with 100,000 workloads (printed, not asserted)', async (t) => {
  const { state } = emptyState();
  const collect = (): number => {
    (globalThis as { gc?: () => void }).gc?.();
    return process.memoryUsage().heapUsed / 1e6;
  };
  const before = collect();
  let applyMs = 0;
  for (let start = 0; start < PODS; start += SLICE) {
    const workloads = Array.from({ length: SLICE }, (_, offset) => {
      const index = start + offset;
      const app = index % SERVICES;
      return workload(fresh(`app-${app}-${index}`), {
        namespace: fresh(`ns-${app % 100}`),
        addresses: [`10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`],
        node: fresh(`node-${index % 1000}`),
        serviceAccount: fresh(`sa-${app}`),
        services: [fresh(`svc-${app}`)],
      });
    });
    const from = performance.now();
    state.applyAddresses({ workloads });
    applyMs += performance.now() - from;
  }
  const services = Array.from({ length: SERVICES }, (_, index) =>
    service(`svc-${index}`, {
      namespace: `ns-${index % 100}`,
      vips: [`10.96.${index >> 8}.${index & 255}`],
      balancing: { preference: ['REGION', 'ZONE'], mode: 'FAILOVER', includeUnhealthy: false },
    }),
  );
  state.applyAddresses({ services });
  state.markAddressesSynced();
  t.comment(`heap: ${Math.round(collect() - before)} MB (exact only with --expose-gc)`);
  t.comment(`apply: ${((applyMs / PODS) * 1000).toFixed(1)} µs each`);
  const client = state.workloads.atAddress(NETWORK, ip('10.0.0.1'))!;
  const time = (): string => {
    const from = performance.now();
    for (let index = 0; index < SERVICES; index++) {
      state.resolveDestination(at(`10.96.${index >> 8}.${index & 255}`), client);
    }
    return (((performance.now() - from) / SERVICES) * 1000).toFixed(1);
  };
  t.comment(`first pick of a service: ${time()} µs, then ${time()} µs`);
  t.equal(state.workloads.size, PODS);
});

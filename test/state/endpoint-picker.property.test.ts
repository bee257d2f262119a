import fc from 'fast-check';
import t from 'tap';

import { createSeededRandom } from '../../src/base/random.ts';
import { EndpointPicker } from '../../src/state/endpoint-picker.ts';
import type { WorkloadRecord } from '../../src/state/workload-index.ts';
import { service, workload } from './build.ts';

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
const client = workload('client');
const cart = service('cart', {
  balancing: { mode: 'FAILOVER', preference: ['REGION', 'ZONE'], includeUnhealthy: false },
});

const change = fc.record({
  name: fc.constantFrom(...NAMES),
  there: fc.oneof({ weight: 3, arbitrary: fc.constant(true) }, fc.constant(false)),
  capacity: fc.constantFrom(0, 1, 1, 1, 2, 7),
  region: fc.constantFrom('r1', 'r2'),
  zone: fc.constantFrom('z1', 'z2'),
});

/** What is picked when everything else is excluded, and the ranks that a picker must honour. */
function pickable(picker: EndpointPicker, present: ReadonlyMap<string, WorkloadRecord>): string[] {
  const random = createSeededRandom(1);
  return [...present.keys()].filter((name) => {
    const others = [...present.values()].filter((record) => record.workload.name !== name);
    const picked = picker.pick(random, new Set(others.map((record) => record.workload.uid)));
    return picked?.workload.name === name;
  });
}

function rankOf(record: WorkloadRecord): number {
  if (record.workload.capacity === 0) return -1;
  if (record.workload.locality.region !== 'r1') return 0;
  return record.workload.locality.zone === 'z1' ? 2 : 1;
}

void t.test('a picker holds exactly the usable endpoints after any changes', async () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      const picker = new EndpointPicker(
        { service: cart, servicePort: 80, client, anyPort: false },
        [],
      );
      const random = createSeededRandom(2);
      const records = new Map<string, WorkloadRecord>();
      const present = new Map<string, WorkloadRecord>();
      for (const { name, there, capacity, region, zone } of changes) {
        const locality = { region, zone, subzone: '' };
        const now = workload(name, { addresses: ['10.1.0.2'], capacity, locality });
        const record = records.get(name) ?? { workload: now, open: 0, uidHash: undefined };
        records.set(name, record);
        if (there) {
          record.workload = now;
          present.set(name, record);
          picker.update(record);
        } else {
          present.delete(name);
          picker.remove(record);
        }
        const usable = [...present.values()].filter((entry) => entry.workload.capacity > 0);
        if (picker.size !== usable.length) return false;
        const wanted = usable.map((entry) => entry.workload.name).toSorted();
        if (pickable(picker, present).toSorted().join() !== wanted.join()) return false;
        const best = Math.max(-1, ...usable.map(rankOf));
        const picked = picker.pick(random, new Set());
        if ((picked === undefined ? -1 : rankOf(picked)) !== best) return false;
      }
      return true;
    }),
    { numRuns: 200 },
  );
});

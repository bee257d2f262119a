/** T108, G28 at full length: a million hostile host names. */

import t from 'tap';

import { SERIES_MAX } from '../../src/telemetry/series-store.ts';
import { floodWithHosts } from '../telemetry/hostile-flood.ts';

const HOSTS = 1_000_000;
const HEAP_GROWTH_MAX_BYTES = 64 * 1024 * 1024;

t.test(
  'T108, G28: 10^6 hostile hosts leave series and memory flat, and nothing is lost',
  async (t) => {
    const result = floodWithHosts(20_000, HOSTS);
    t.comment(JSON.stringify(result));
    t.equal(result.seriesAtEnd, result.seriesAfterWarmUp);
    t.ok(result.seriesAtEnd <= SERIES_MAX);
    t.ok(result.heapGrownBytes < HEAP_GROWTH_MAX_BYTES);
    t.equal(result.openedCount, HOSTS);
    t.equal(result.closedCount, HOSTS);
  },
);

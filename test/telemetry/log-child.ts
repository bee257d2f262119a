/** A process that logs to its standard output as told, and reports on file descriptor 3. For log-writer.test.ts. */

import { writeSync } from 'node:fs';

import { createSystemClock } from '../../src/base/clock.ts';
import { createLogWriter } from '../../src/telemetry/log-writer.ts';
import { createLogger } from '../../src/telemetry/logger.ts';

const REPORT_FD = 3;
const [count = '0', mode = 'end'] = process.argv.slice(2);
const clock = createSystemClock();
const writer = createLogWriter(clock, 1);
const logger = createLogger({ clock, writer, fields: { process: 'child' } });
const rssBefore = process.memoryUsage().rss;
const startMs = performance.now();
let longestMs = 0;
for (let n = 0; n < Number(count); n++) {
  const lineMs = performance.now();
  logger.info('a line', { n, filler: 'x'.repeat(200) });
  longestMs = Math.max(longestMs, performance.now() - lineMs);
  if (n % 500 === 499) await new Promise((resolve) => setImmediate(resolve));
}
const report = (): void => {
  const { droppedCount, queuedBytes } = writer;
  const grownBytes = process.memoryUsage().rss - rssBefore;
  const spentMs = performance.now() - startMs;
  const text = JSON.stringify({ droppedCount, queuedBytes, grownBytes, spentMs, longestMs });
  writeSync(REPORT_FD, `${text}\n`);
};
report();
if (mode === 'resume') {
  // The test reads now; then there is room again.
  setTimeout(() => {
    logger.info('after the stall');
    setTimeout(() => {
      report();
      writer.close();
    }, 500);
  }, 1000);
} else {
  writer.close();
  process.exit(0);
}

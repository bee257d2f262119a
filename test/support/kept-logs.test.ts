import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { keepLogs } from './kept-logs.ts';

const line = (atMs: number, level: string, msg: string): string =>
  `${new Date(atMs).toISOString()} stdout F ${JSON.stringify({ level, msg })}\n`;

t.test('the logs of a pod that is gone are there when a test failed', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'kept-logs-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const pod = join(dir, 'node-a/var-log/pods/nodemesh-system_nodemesh-node-x7_0b1c');
  const other = join(dir, 'node-a/var-log/pods/shop_web-1_77aa/app');
  mkdirSync(join(pod, 'node'), { recursive: true });
  mkdirSync(other, { recursive: true });
  const startMs = Date.now();
  const log = line(startMs - 60_000, 'error', 'before') + line(startMs + 1, 'info', 'during');
  writeFileSync(join(pod, 'node/0.log'), log + line(startMs + 2, 'warn', 'told'));
  writeFileSync(join(other, '0.log'), line(startMs + 1, 'error', 'not ours'));

  const logs = keepLogs(dir);
  t.teardown(() => logs.stop());
  rmSync(pod, { recursive: true });
  const folder = join(dir, 'out');
  const copied = logs.copy(startMs, folder);
  t.match(copied, { folder, warnings: [/^nodemesh-node-x7: .*"told"/] });
  t.equal(copied?.warnings.length, 1, 'neither information nor what was said before it began');
  const [file = '', ...more] = readdirSync(folder);
  t.match([file, more], [/^nodemesh-node-x7_node_0_\d+\.log$/, []]);
  const text = readFileSync(join(folder, file), 'utf8');
  t.match([text.includes('during'), text.includes('before')], [true, false]);

  t.equal(logs.copy(startMs + 120_000, folder), undefined, 'nobody wrote since then');
  t.throws(() => readdirSync(folder), 'and what an earlier failure left is not taken for news');
});

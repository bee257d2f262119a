/** What the bench makes of its options, of the load tools' output and of the samples. It measures nothing. */

import { spawn } from 'node:child_process';

import t from 'tap';

import { parseIperf, parseWrk } from './load.ts';
import { CASES, parseBenchOptions, SUBJECTS } from './options.ts';
import { childProcesses, commandLine, cpuSeconds, memoryOf } from './process-usage.ts';
import { formatAims, formatTable, median, Samples } from './report.ts';

t.test('bench options have defaults that measure everything', async (t) => {
  const options = parseBenchOptions([]);
  t.match(options, { seconds: 3, rounds: 3, workers: 2, profile: false });
  t.strictSame(options.cases, CASES);
  t.strictSame(options.subjects, SUBJECTS);
});

t.test('bench options choose cases and subjects in their own order', async (t) => {
  const args = ['--only', 'idle', '--only', 'iperf-1', '--subject', 'nodemesh'];
  const { cases, subjects } = parseBenchOptions(args);
  t.strictSame(cases, ['iperf-1', 'idle']);
  t.strictSame(subjects, ['nodemesh']);
});

t.test('bench options refuse what makes no sense', async (t) => {
  t.throws(() => parseBenchOptions(['--seconds', '0']), /--seconds must be a whole number/);
  t.throws(() => parseBenchOptions(['--rounds', 'many']), /--rounds must be a whole number/);
  t.throws(() => parseBenchOptions(['--only', 'iperf-3']), /--only must be one of/);
  t.throws(() => parseBenchOptions(['--subject', 'envoy']), /--subject must be one of/);
  t.throws(() => parseBenchOptions(['--fast']), /Unknown option/);
});

const WRK = `Running 2s test @ http://10.0.0.1:8080/
  2 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.97ms    2.18ms  22.75ms   92.51%
    Req/Sec    30.17k    16.57k   84.20k    87.50%
  Latency Distribution
     50%  102.00us
     99%   11.91ms
  123042 requests in 2.04s, 12.32MB read
Requests/sec:  60418.51
Transfer/sec:      6.05MB
`;

t.test('wrk output gives requests, rate and p99 in ms', async (t) => {
  t.strictSame(parseWrk(WRK, ''), { requests: 123_042, rps: 60_418.51, p99Ms: 11.91 });
  t.equal(parseWrk(WRK.replace('11.91ms', '250.00us'), '').p99Ms, 0.25);
  t.equal(parseWrk(WRK.replace('11.91ms', '1.20s'), '').p99Ms, 1200);
});

t.test('wrk output with lost or wrong answers is a failure', async (t) => {
  const lost = WRK.replace(
    'Requests/sec',
    '  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec',
  );
  t.throws(() => parseWrk(lost, ''), /Socket errors: connect 0, read 3/);
  const late = lost.replace('read 3', 'read 0').replace('timeout 0', 'timeout 4');
  t.equal(parseWrk(late, '').requests, 123_042, 'late answers are not lost');
  const wrong = WRK.replace('Requests/sec', '  Non-2xx or 3xx responses: 7\nRequests/sec');
  t.throws(() => parseWrk(wrong, ''), /Non-2xx/);
  t.throws(() => parseWrk('', 'unable to connect'), /unable to connect/);
});

t.test('iperf3 output gives what the receiver got', async (t) => {
  const report = { end: { sum_received: { bytes: 5e9, bits_per_second: 8e9 } } };
  t.strictSame(parseIperf(JSON.stringify(report), ''), { bytes: 5e9, gbitPerS: 8 });
  t.throws(() => parseIperf('{"error":"unable to connect"}', ''), /unable to connect/);
  t.throws(() => parseIperf('', 'Killed'), /Killed/);
});

t.test('median of samples is what the rows carry', async (t) => {
  t.equal(median([3, 1, 2]), 2);
  t.equal(median([4, 1, 2, 3]), 2.5);
  const samples = new Samples();
  for (const value of [9, 1, 5]) {
    samples.add('iperf-1', 'nodemesh', new Map([['gbit_per_s', value]]));
    samples.add('iperf-1', 'haproxy', new Map([['gbit_per_s', value * 2]]));
  }
  t.strictSame(samples.rows(), [
    { case: 'iperf-1', subject: 'haproxy', metric: 'gbit_per_s', value: 10 },
    { case: 'iperf-1', subject: 'nodemesh', metric: 'gbit_per_s', value: 5 },
  ]);
  t.match(formatTable(samples), /iperf-1 {2}nodemesh .*5\.00 .*1\.00–9\.00/);
  t.match(formatAims(samples.rows()), /iperf-1 .*≥ 1\.1 × HAProxy .*0\.50 .*not/);
});

t.test('aims that were not measured are not judged', async (t) => {
  t.equal(formatAims([]), '');
  const rows = [{ case: 'idle', subject: 'nodemesh', metric: 'rss_mb', value: 80 }] as const;
  t.match(formatAims(rows), /idle .*≤ 90 MB .*80\.00 .*reached/);
});

t.test('usage of a process is read from /proc', async (t) => {
  t.ok(cpuSeconds(process.pid) > 0);
  const child = spawn('sleep', ['60']);
  t.strictSame(childProcesses(process.pid), [child.pid]);
  t.strictSame(commandLine(child.pid ?? 0), ['sleep', '60']);
  child.kill();
  const memory = memoryOf(process.pid);
  t.ok(memory.pssMb > 1 && memory.anonymousMb > 1 && memory.fileMb > 1);
  t.throws(() => cpuSeconds(2 ** 22 + 1), /ended during the run/);
});

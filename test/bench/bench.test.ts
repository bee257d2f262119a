/** What the bench makes of its options, of the load tools' output and of the samples. It measures nothing. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

import t from 'tap';

import { L7_CASES, L7_SUBJECTS } from './l7-cases.ts';
import { parseH2load } from './l7-load.ts';
import { parseIperf, parseWrk } from './load.ts';
import { CASES, parseBenchOptions, SUBJECTS } from './options.ts';
import { childProcesses, commandLine, cpuSeconds, memoryOf } from './process-usage.ts';
import { quantile } from './rate-load.ts';
import { formatAims, formatTable, median, Samples } from './report.ts';

t.test('bench options have defaults that measure everything', async (t) => {
  const options = parseBenchOptions([]);
  t.match(options, { seconds: 3, rounds: 3, workers: 2, profile: false });
  t.strictSame(options.cases, CASES);
  t.strictSame(options.subjects, SUBJECTS);
  t.strictSame(options.l7Cases, L7_CASES);
  t.strictSame(options.l7Subjects, L7_SUBJECTS);
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
  t.throws(() => parseBenchOptions(['--subject', 'caddy']), /--subject must be one of/);
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

t.test('bench options split into the two halves; one may be left with nothing', async (t) => {
  const parts = (...args: string[]): object => {
    const { cases, subjects, l7Cases, l7Subjects } = parseBenchOptions(args);
    return { cases, subjects, l7Cases: l7Cases.map(({ name }) => name), l7Subjects };
  };
  const nothingOfL4 = { cases: [], subjects: [] };
  t.strictSame(parts('--only', 'mesh-http1-16', '--only', 'grpc-64', '--subject', 'nodemesh'), {
    ...nothingOfL4,
    l7Cases: ['grpc-64', 'mesh-http1-16'],
    l7Subjects: ['nodemesh'],
  });
  t.strictSame(parts('--only', 'idle', '--only', 'http1-16', '--subject', 'haproxy'), {
    cases: ['idle'],
    subjects: ['haproxy'],
    l7Cases: ['http1-16'],
    l7Subjects: ['haproxy'],
  });
  t.strictSame(parts('--subject', 'l4'), {
    ...nothingOfL4,
    l7Cases: ['mesh-http1-16'],
    l7Subjects: ['l4'],
  });
  t.match(parts('--subject', 'envoy'), { ...nothingOfL4, l7Subjects: ['envoy'] });
  t.strictSame(parts('--subject', 'haproxy-full'), {
    cases: ['newconn-16'],
    subjects: ['haproxy-full'],
    l7Cases: [],
    l7Subjects: [],
  });
  t.throws(() => parts('--only', 'idle', '--subject', 'envoy'), /nothing to measure/);
});

t.test('load at a constant rate: a call that gRPC says has failed is a failure', async (t) => {
  const answers = { ':status': 200, 'content-type': 'application/grpc' };
  const outcomes: Record<string, string | undefined> = { good: '0', failed: '14', none: undefined };
  const seen: Record<string, [code: unknown, text: string]> = {};
  for (const [name, outcome] of Object.entries(outcomes)) {
    const server = createServer();
    const sessions = new Set<ServerHttp2Session>();
    server.on('session', (session) => sessions.add(session));
    server.on('stream', (stream: ServerHttp2Stream) => {
      stream.on('error', () => {});
      stream.respond({ ...answers, ...(outcome === undefined ? {} : { 'grpc-status': outcome }) });
      stream.end('answer');
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const { port } = server.address() as AddressInfo;
    const program = join(import.meta.dirname, 'rate-load.ts');
    const args = [program, '127.0.0.1', String(port), 'h2', '1', '2', '50', '0.1'];
    const child = spawn(process.execPath, args);
    const [[code], out, err] = await Promise.all([
      once(child, 'close'),
      text(child.stdout),
      text(child.stderr),
    ]);
    seen[name] = [code, out + err];
    for (const session of sessions) session.destroy();
    server.close();
  }
  t.equal(seen['good']?.[0], 0, seen['good']?.[1] ?? '');
  t.match(JSON.parse(seen['good']?.[1] ?? '{}'), { requests: 5 });
  t.strictSame(seen['failed'], [1, 'grpc-status 14\n']);
  t.strictSame(seen['none'], [1, 'grpc-status undefined\n']);
});

t.test('h2load: requests that failed are no result', async (t) => {
  const line = 'requests: 100 total, 100 started, 100 done, 98 succeeded, 2 failed, 0 errored';
  t.strictSame(parseH2load(line.replace('98', '100').replace('2 failed', '0 failed'), 2), {
    requests: 100,
    rps: 50,
  });
  t.throws(() => parseH2load(line, 2), /98 succeeded, 2 failed/);
  t.throws(() => parseH2load('', 2), /no request/);
});

t.test('quantiles of times', async (t) => {
  const times = Float64Array.from({ length: 1_000 }, (_, index) => index + 1);
  t.strictSame(
    [0.5, 0.99, 0.999].map((share) => quantile(times, share)),
    [501, 991, 1_000],
  );
  t.ok(Number.isNaN(quantile(new Float64Array(), 0.5)));
});

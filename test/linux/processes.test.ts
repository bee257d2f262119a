/** Limits, sysctls, commands, capture and the start-up check, with both backends where calls differ. */

import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { capturePackets, openPacketCapture } from '../../src/linux/capture.ts';
import { runCommand } from '../../src/linux/commands.ts';
import { parseTcpFrame } from '../../src/linux/frames.ts';
import { openNamespace } from '../../src/linux/namespaces.ts';
import { loadNative, NATIVE_BACKENDS } from '../../src/linux/native.ts';
import {
  checkPlatform,
  isKernelNewEnough,
  missingCapabilities,
  parseKernelRelease,
} from '../../src/linux/platform.ts';
import {
  descriptorLimit,
  isMemoryBacked,
  raiseDescriptorLimit,
  setDescriptorLimit,
} from '../../src/linux/process-limits.ts';
import { decodeSocketAddress, encodeSocketAddress } from '../../src/linux/sockaddr.ts';
import { createConnector } from '../../src/linux/sockets.ts';
import { readSysctl, writeSysctl, writeThroughOwnProc } from '../../src/linux/sysctl.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

const skip = reasonToSkip('nft');
const clock = createSystemClock();

async function rejection(promise: Promise<unknown>): Promise<MeshError> {
  const error: unknown = await promise.then(
    () => new Error('nothing was rejected'),
    (reason: unknown) => reason,
  );
  if (error instanceof MeshError) return error;
  throw error;
}

for (const backend of NATIVE_BACKENDS) {
  void t.test(`process limits through ${backend}`, { skip }, (t) => {
    const native = loadNative(backend);
    const { hard } = descriptorLimit(native);
    setDescriptorLimit(native, 256);
    t.equal(descriptorLimit(native).soft, 256);
    t.equal(raiseDescriptorLimit(native), hard);
    t.equal(isMemoryBacked('/dev/shm'), true);
    t.equal(isMemoryBacked('/usr'), false);
    t.throws(() => isMemoryBacked('/nowhere'), { code: 'MESH_SYSCALL_FAILED' });
    t.end();
  });

  void t.test(`forbidMemoryDumps through ${backend} (T125)`, { skip }, async (t) => {
    const program = fileURLToPath(new URL('undumpable-process.ts', import.meta.url));
    const child = spawn(process.execPath, [program, backend], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    child.on('error', (error) => t.error(error));
    let text = '';
    child.stdout.on('data', (chunk) => (text += String(chunk)));
    await once(child, 'close');
    t.equal(text, 'dumpable true, then false; core 0\n');
  });

  void t.test(`a thread that cannot come back aborts, through ${backend}`, { skip }, async (t) => {
    const program = fileURLToPath(new URL('stranded-process.ts', import.meta.url));
    const child = spawn(process.execPath, [program, backend], { stdio: 'ignore', cwd: '/dev/shm' });
    child.on('error', (error) => t.error(error));
    const [, signal] = (await once(child, 'close')) as [number | null, string | null];
    t.equal(signal, 'SIGABRT');
  });

  void t.test(`sysctls of a namespace through ${backend}`, { skip }, (t) => {
    const native = loadNative(backend);
    const network = createTestNetwork();
    t.teardown(() => network.removeAll());
    const pod = openNamespace(native, network.add('pod'));
    const name = 'net.ipv4.tcp_migrate_req';
    t.equal(readSysctl(native, pod, name), '0');
    writeSysctl(native, pod, name, '1');
    t.equal(readSysctl(native, pod, name), '1');
    writeThroughOwnProc(native, pod, name, '0');
    t.equal(readSysctl(native, pod, name), '0', 'the way for a read-only /proc/sys works too');
    t.throws(() => readSysctl(native, pod, 'net.ipv4.no_such'), {
      code: 'MESH_SYSCALL_FAILED',
      message: /ENOENT/,
    });
    t.throws(() => writeSysctl(native, pod, name, 'x'), {
      code: 'MESH_SYSCALL_FAILED',
      message: /EINVAL/,
    });
    t.throws(() => writeSysctl(native, pod, 'kernel.core_pattern', 'x'), TypeError);
    pod.close();
    t.end();
  });

  void t.test(`packets captured in a namespace through ${backend}`, { skip }, async (t) => {
    const native = loadNative(backend);
    const network = createTestNetwork();
    t.teardown(() => network.removeAll());
    const pod = openNamespace(native, network.add('pod'));
    t.teardown(() => pod.close());
    network.add('out');
    network.join(
      { name: 'out', device: 'o0', addresses: ['10.78.0.1/24', 'fd78::1/64'] },
      { name: 'pod', device: 'eth0', addresses: ['10.78.0.2/24', 'fd78::2/64'] },
    );
    t.throws(() => openPacketCapture(native, pod, 'eth9'), {
      code: 'MESH_SYSCALL_FAILED',
      message: /ENODEV/,
    });
    const seen: string[] = [];
    const capture = capturePackets(native, clock, pod, 'eth0', (frame) => {
      const tcp = parseTcpFrame(frame);
      if (tcp?.rst === true || tcp?.syn === true) {
        seen.push(`${tcp.source} > ${tcp.destination}:${tcp.destinationPort}`);
      }
    });
    for (const [family, host] of [
      ['ipv4', '10.78.0.1'],
      ['ipv6', 'fd78::1'],
    ] as const) {
      const socket = new Socket({ fd: createConnector(native, pod, { family }) });
      socket.on('error', () => {});
      socket.connect({ host, port: 4321 });
      await new Promise((resolve) => void socket.once('close', resolve));
    }
    capture.close();
    capture.close();
    t.same(
      seen.filter((line) => line.endsWith(':4321')),
      ['10.78.0.2 > 10.78.0.1:4321', 'fd78::2 > fd78::1:4321'],
    );
    t.equal(seen.length, 4, 'the refusals were captured too');
  });
}

void t.test('runCommand runs in the namespace, with input and bounds', { skip }, async (t) => {
  const native = loadNative();
  const network = createTestNetwork();
  t.teardown(() => network.removeAll());
  const pod = openNamespace(native, network.add('pod'));
  t.teardown(() => pod.close());
  const run = (program: string, args: string[], options = {}): Promise<{ stdout: string }> =>
    runCommand(native, clock, program, args, { namespace: pod, ...options });
  await run('nft', ['-f', '-'], { input: 'table ip here {\n}\n' });
  t.equal((await run('nft', ['list', 'tables'])).stdout, 'table ip here\n');
  t.equal(
    (await runCommand(native, clock, 'nft', ['list', 'tables'])).stdout.includes('here'),
    false,
  );
  const wrong = await rejection(run('nft', ['-f', '-'], { input: 'nonsense' }));
  t.equal(wrong.code, 'MESH_COMMAND_FAILED');
  t.match(wrong.message, /syntax error/);
  t.match(wrong.details, { exit: 1, program: 'nft' });
  t.match((await rejection(run('no-such-program', []))).message, /ENOENT/);
  t.match((await rejection(run('sleep', ['9'], { timeoutMs: 20 }))).message, /longer than 20 ms/);
  t.match((await rejection(run('yes', [], { outputMaxBytes: 9 }))).message, /printed too much/);
});

void t.test(
  'checkPlatform passes here and names everything that is missing',
  { skip },
  async (t) => {
    await checkPlatform(loadNative(), clock);
    t.same(parseKernelRelease('6.18.44-fc'), [6, 18]);
    t.equal(parseKernelRelease('six'), undefined);
    t.equal(isKernelNewEnough('5.13.19'), false);
    t.equal(isKernelNewEnough('5.14.0'), true);
    t.equal(missingCapabilities('CapEff:\t0000000000000000\n').length, 4);
    t.match(missingCapabilities('CapEff:\t0000000000201000\n'), [/NET_RAW/, /SYS_PTRACE/]);
    const program = fileURLToPath(new URL('platform-process.ts', import.meta.url));
    const child = spawn(process.execPath, [program], {
      stdio: ['ignore', 'pipe', 'inherit'],
      uid: 65534,
      gid: 65534,
    });
    child.on('error', (error) => t.error(error));
    let text = '';
    child.stdout.on('data', (chunk) => (text += String(chunk)));
    await once(child, 'close');
    t.match(text, /MESH_PLATFORM_UNSUPPORTED.*NET_ADMIN.*SYS_ADMIN.*"nft"/);
  },
);

void t.test('socket addresses survive encoding in both families', (t) => {
  const word = fc.integer({ min: 0, max: 0xffff });
  fc.assert(
    fc.property(fc.ipV4(), fc.ipV6(), word, (four, six, port) => {
      const encoded = encodeSocketAddress({ address: four, port });
      const decoded = decodeSocketAddress(encoded, 'ipv4');
      if (decoded.address !== four || decoded.port !== port) return false;
      const bytes = encodeSocketAddress({ address: six, port });
      const text = decodeSocketAddress(bytes, 'ipv6').address;
      return encodeSocketAddress({ address: text, port }).equals(bytes);
    }),
  );
  for (const address of ['', 'fe80::1%eth0', '1.2.3', 'host', '::ffff:1.2.3.4.5', '[::1]']) {
    t.throws(
      () => encodeSocketAddress({ address, port: 1 }),
      { code: 'MESH_ADDRESS_INVALID' },
      address,
    );
  }
  t.equal(
    encodeSocketAddress({ address: '::ffff:1.2.3.4', port: 1 }).toString('hex', 18, 24),
    'ffff01020304',
  );
  t.end();
});

void t.test('parseTcpFrame takes any bytes without failing', (t) => {
  const bytes = fc.uint8Array({ maxLength: 200 });
  const kinds = fc.constantFrom('0800', '86dd', '8100', '0806');
  fc.assert(
    fc.property(bytes, kinds, fc.boolean(), (tail, kind, six) => {
      const head = Buffer.from(`ffffffffffff000000000000${kind}${six ? '60' : '45'}`, 'hex');
      const parsed = parseTcpFrame(Buffer.concat([head, tail]));
      return parsed === undefined || parsed.payload.length <= tail.length;
    }),
    { numRuns: 2_000 },
  );
  t.end();
});

void t.test('a payload is found behind headers and Ethernet padding', (t) => {
  const header = Buffer.alloc(54);
  header.writeUInt16BE(0x0800, 12);
  header.set([0x45], 14);
  header.writeUInt16BE(20 + 20 + 5, 16);
  header.set([6], 23);
  header.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
  header.writeUInt16BE(1234, 34);
  header.writeUInt16BE(80, 36);
  header.set([0x50, 0x18], 46);
  const frame = Buffer.concat([header, Buffer.from('hello'), Buffer.alloc(8)]);
  const parsed = parseTcpFrame(frame);
  t.match(parsed, { source: '10.0.0.1', destination: '10.0.0.2', destinationPort: 80, ack: true });
  t.equal(String(parsed?.payload), 'hello');
  t.end();
});

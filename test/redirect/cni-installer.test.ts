/** The script on the node and our configuration in the chain: whole at every moment, repaired, and gone when told. */

import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import t, { type Test } from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import {
  activeNetworkFile,
  chainedConflist,
  chainedType,
  OWN_CONFLIST,
} from '../../src/redirect/cni-conflist.ts';
import {
  CNI_LOOK_MS,
  removeCni,
  renderCniScript,
  startCniInstaller,
} from '../../src/redirect/cni-installer.ts';

const BRIDGE =
  '{"cniVersion":"0.4.0","name":"k8s","disableCheck":true,"plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}';
const SCRIPT =
  '#!/bin/sh\nversion=dev\nspool=/a\noutside=/b\nenrolled=/c\necho "$version $spool"\n';

function setUp(t: Test, version = '0.1.0') {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-install-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const [confDir, binDir] = [join(dir, 'net.d'), join(dir, 'bin')];
  mkdirSync(confDir);
  writeFileSync(join(dir, 'script'), SCRIPT);
  const clock = createFakeClock(0);
  const options = {
    confDir,
    binDir,
    hostBinDir: '/opt/cni/bin',
    scriptFile: join(dir, 'script'),
    shellFile: join(dir, 'busybox'),
    version,
    spoolDir: '/run/nodemesh/cni',
    outsideDir: '/run/nodemesh/cni-outside',
    enrolledDir: '/var/lib/nodemesh/cni/enrolled',
    clock,
    logger: createNullLogger(),
  };
  const own = join(confDir, OWN_CONFLIST);
  const types = (): string[] =>
    JSON.parse(readFileSync(own, 'utf8')).plugins.map(({ type }: { type: string }) => type);
  return { dir, confDir, binDir, own, types, clock, options };
}

void t.test('our configuration is the active one with our plugin at its end', async (t) => {
  const text = chainedConflist('10-bridge.conflist', BRIDGE, 'nodemesh-cni-1');
  if (!text.ok) throw text.error;
  t.same(JSON.parse(text.value), {
    ...JSON.parse(BRIDGE),
    plugins: [...JSON.parse(BRIDGE).plugins, { type: 'nodemesh-cni-1' }],
  });
  t.equal(chainedType(text.value), 'nodemesh-cni-1');
  const again = chainedConflist('10-bridge.conflist', text.value, 'nodemesh-cni-2');
  t.equal(again.ok && chainedType(again.value), 'nodemesh-cni-2', 'a copy of ours counts once');
  const single = '{"cniVersion":"1.0.0","name":"one","type":"ptp","mtu":1400}';
  const list = chainedConflist('10-one.conf', single, 'nodemesh-cni-1');
  t.same(list.ok && JSON.parse(list.value), {
    cniVersion: '1.0.0',
    name: 'one',
    plugins: [{ type: 'ptp', mtu: 1400 }, { type: 'nodemesh-cni-1' }],
  });
  const files = ['README', '20-b.conf', OWN_CONFLIST, '10-a.conflist.bak', '10-c.json'];
  t.equal(activeNetworkFile(files), '10-c.json');
  t.equal(activeNetworkFile([OWN_CONFLIST]), undefined);
});

void t.test('what cannot be chained to is refused with the reason', async (t) => {
  const wrong = {
    '{': /it is not JSON/,
    '[]': /it is not an object/,
    '{"cniVersion":"1.0.0","plugins":[]}': /"plugins" is not a list of plugins/,
    '{"cniVersion":"1.0.0","plugins":[1]}': /"plugins" is not a list of plugins/,
    '{"plugins":[{"type":"x"}]}': /cniVersion undefined is none of 0\.3\.1, /,
    '{"cniVersion":"0.2.0","type":"x"}': /cniVersion "0\.2\.0"/,
    '{"cniVersion":"1.0.0","plugins":[{"type":"nodemesh-cni-1"}]}': /no plugin but ours/,
  };
  for (const [text, reason] of Object.entries(wrong)) {
    const result = chainedConflist('10-x.conf', text, 'nodemesh-cni-1');
    if (result.ok) throw new Error(`accepted ${text}`);
    t.equal(result.error.code, 'MESH_CONFIG_INVALID');
    t.match(result.error.message, reason);
    t.equal(chainedType(text) ?? '', text.includes('nodemesh-cni-1') ? 'nodemesh-cni-1' : '');
  }
  fc.assert(
    fc.property(fc.jsonValue(), fc.string(), (value, text) => {
      for (const input of [JSON.stringify(value), text]) {
        chainedConflist('x', input, 'nodemesh-cni-1');
        chainedType(input);
      }
    }),
  );
});

void t.test("the script carries this node's values, and nothing that is not one", async (t) => {
  const values = { version: '1.2.3', spool: '/s', outside: '/o', enrolled: '/e' };
  const text = renderCniScript(SCRIPT, '/opt/cni/bin/busybox-nodemesh-1.2.3 sh', values);
  t.equal(
    text,
    '#!/opt/cni/bin/busybox-nodemesh-1.2.3 sh\nversion=1.2.3\nspool=/s\noutside=/o\nenrolled=/e\necho "$version $spool"\n',
  );
  for (const bad of [{ version: '1;id' }, { spool: '/a b' }, { spool: 'a' }, { outside: '/$x' }]) {
    t.throws(() => renderCniScript(SCRIPT, '/bin/sh', { ...values, ...bad }), {
      code: 'MESH_CONFIG_INVALID',
    });
  }
  t.throws(() => renderCniScript('#!/bin/sh\n', '/bin/sh', values), MeshError);
});

void t.test(
  'programs first, then the configuration; others rewriting theirs changes nothing',
  async (t) => {
    const { dir, confDir, binDir, own, types, clock, options } = setUp(t);
    const before = startCniInstaller(options);
    t.equal(before.problem, 'there is no network to chain to', 'the network comes later');
    t.equal(existsSync(own), false);
    t.same(readdirSync(binDir), ['nodemesh-cni-0.1.0']);
    const run = spawnSync(join(binDir, 'nodemesh-cni-0.1.0'), { encoding: 'utf8' });
    t.equal(run.stdout, '0.1.0 /run/nodemesh/cni\n', 'it runs');

    writeFileSync(join(confDir, '10-bridge.conflist'), BRIDGE);
    await clock.advance(CNI_LOOK_MS);
    t.equal(before.problem, '');
    t.same(types(), ['bridge', 'portmap', 'nodemesh-cni-0.1.0']);
    t.equal(statSync(own).mode & 0o777, 0o600);
    t.equal(
      readFileSync(join(confDir, '10-bridge.conflist'), 'utf8'),
      BRIDGE,
      'theirs is untouched',
    );

    writeFileSync(join(confDir, '10-bridge.conflist'), BRIDGE.replace('portmap', 'bandwidth'));
    t.same(types().at(-1), 'nodemesh-cni-0.1.0', 'chained also before anybody looks');
    await clock.advance(CNI_LOOK_MS);
    t.same(types(), ['bridge', 'bandwidth', 'nodemesh-cni-0.1.0']);
    for (const damage of [
      () => rmSync(own),
      () => writeFileSync(own, '{'),
      () => chmodSync(own, 0o666),
    ]) {
      damage();
      await clock.advance(CNI_LOOK_MS);
      t.same(types(), ['bridge', 'bandwidth', 'nodemesh-cni-0.1.0'], 'repaired');
      t.equal(statSync(own).mode & 0o777, 0o600);
    }
    writeFileSync(join(confDir, '10-bridge.conflist'), '{"cut');
    await clock.advance(CNI_LOOK_MS);
    t.match(before.problem, /it is not JSON/);
    t.same(types(), ['bridge', 'bandwidth', 'nodemesh-cni-0.1.0'], 'the last good one stays');
    writeFileSync(join(confDir, '00-00-a.conf'), BRIDGE);
    await clock.advance(CNI_LOOK_MS);
    t.match(before.problem, /Cannot come first: "\S+00-00-a.conf" sorts before/);
    for (const name of ['00-00-a.conf', '10-bridge.conflist']) rmSync(join(confDir, name));
    await clock.advance(CNI_LOOK_MS);
    t.same(readdirSync(confDir), [], 'without a network there is none of ours');
    before.close();
    t.equal(clock.pendingCount(), 0);
    t.same(readdirSync(dir).toSorted(), ['bin', 'net.d', 'script']);
  },
);

void t.test("the kernel's notice is enough", async (t) => {
  const { confDir, own, options } = setUp(t);
  const installer = startCniInstaller(options);
  writeFileSync(join(confDir, '10-bridge.conflist'), BRIDGE);
  for (let tries = 0; tries < 500 && !existsSync(own); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  t.equal(existsSync(own), true);
  installer.close();
  t.equal(existsSync(own), true, 'it stays when we go: new pods are held, not let through');
});

void t.test('versions stand side by side during an upgrade; the later one decides', async (t) => {
  const { confDir, binDir, types, clock, options, dir } = setUp(t);
  writeFileSync(join(confDir, '10-bridge.conflist'), BRIDGE);
  writeFileSync(join(dir, 'busybox'), 'a shell');
  const old = startCniInstaller(options);
  t.match(
    readFileSync(join(binDir, 'nodemesh-cni-0.1.0'), 'utf8'),
    /^#!\/opt\/cni\/bin\/busybox-nodemesh-0\.1\.0 sh\n/,
  );
  t.equal(statSync(join(binDir, 'busybox-nodemesh-0.1.0')).mode & 0o777, 0o755);
  const next = startCniInstaller({ ...options, version: '0.2.0' });
  t.same(types().at(-1), 'nodemesh-cni-0.2.0');
  await clock.advance(CNI_LOOK_MS);
  t.same(types().at(-1), 'nodemesh-cni-0.2.0', 'the old agent leaves it alone');
  t.same(readdirSync(binDir), ['busybox-nodemesh-0.2.0', 'nodemesh-cni-0.2.0']);
  rmSync(join(binDir, 'nodemesh-cni-0.2.0'));
  old.close();
  next.close();
});

void t.test('removing leaves what was there before', async (t) => {
  const { confDir, binDir, options } = setUp(t);
  writeFileSync(join(confDir, '10-bridge.conflist'), BRIDGE);
  mkdirSync(binDir);
  writeFileSync(join(binDir, 'bridge'), 'theirs');
  startCniInstaller(options).close();
  startCniInstaller({ ...options, version: '0.2.0' }).close();
  removeCni(options);
  t.same(readdirSync(confDir), ['10-bridge.conflist']);
  t.same(readdirSync(binDir), ['bridge']);
  t.doesNotThrow(() => removeCni(options), 'twice is once');
  t.doesNotThrow(() => removeCni({ confDir: '/nonexistent/a', binDir: '/nonexistent/b' }));
});

void t.test(
  'links are not followed, and what a killed installer left is no obstacle (T123)',
  async (t) => {
    const { dir, confDir, own, types, options } = setUp(t);
    writeFileSync(join(confDir, '10-bridge.conflist'), BRIDGE);
    const secret = join(dir, 'secret');
    writeFileSync(secret, 'secret');
    symlinkSync(secret, own);
    symlinkSync(secret, join(confDir, '.nodemesh-new'));
    const installer = startCniInstaller(options);
    t.equal(installer.problem, '');
    installer.close();
    t.same(types().at(-1), 'nodemesh-cni-0.1.0');
    t.equal(readFileSync(secret, 'utf8'), 'secret');
    t.equal(statSync(own).isFile(), true);
    const missing = startCniInstaller({ ...options, scriptFile: join(dir, 'nothing') });
    t.match(missing.problem, /ENOENT/, 'a problem is told, never thrown');
    missing.close();
  },
);

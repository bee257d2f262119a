/** The image: built twice alike, runs by itself, holds what it should, and says the same as the Dockerfile. */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { IMAGE_CONFIG } from '../../daemonset/image/image-config.ts';
import { writeOciArchive } from '../../daemonset/image/oci-archive.ts';
import { assembleRoot, digestInputs, listRoot } from '../../daemonset/image/root-filesystem.ts';

const TOOLS = ['nft', 'ip', 'busybox', 'tar', 'ldd'];
const missing = TOOLS.filter((tool) => spawnSync('which', [tool]).status !== 0);
const skip = missing.length > 0 && `needs ${missing.join(', ')}`;
const folder = mkdtempSync(join(tmpdir(), 'nodemesh-image-test-'));
t.teardown(() => rmSync(folder, { recursive: true }));
const root = join(folder, 'root');

t.test('the Dockerfile configures what the builder configures', async (t) => {
  const text = readFileSync('daemonset/Dockerfile', 'utf8');
  const last = text.slice(text.lastIndexOf('\nFROM '));
  const all = (word: string): string[] =>
    [...last.matchAll(new RegExp(`^${word} (.*)$`, 'gm'))].map((match) => match[1] ?? '');
  t.strictSame(all('ENV'), IMAGE_CONFIG.Env);
  t.strictSame(all('USER'), [IMAGE_CONFIG.User]);
  t.strictSame(all('WORKDIR'), [IMAGE_CONFIG.WorkingDir]);
  t.strictSame(JSON.parse(all('ENTRYPOINT')[0] ?? ''), IMAGE_CONFIG.Entrypoint);
});

t.test('the root file system runs by itself and has no shell', { skip }, async (t) => {
  assembleRoot(process.cwd(), root);
  const paths = listRoot(root).map(({ path }) => path);
  t.equal(new Set(paths).size, paths.length);
  const programs = paths.filter((path) => /^usr\/(?:local\/)?s?bin\//.test(path));
  t.strictSame(programs, ['usr/local/bin/node', 'usr/sbin/ip', 'usr/sbin/nft']);
  t.notOk(paths.some((path) => /(?:^|\/)(?:test|tests)\//.test(path) || path.endsWith('.ts')));
  t.notOk(existsSync(join(root, 'app/node_modules/@kubernetes')), 'a pod needs no kubeconfig');
  if (process.getuid?.() !== 0) return;
  const run = (...command: string[]): string => {
    const env = Object.fromEntries(IMAGE_CONFIG.Env.map((line) => line.split('=', 2)));
    const options = { encoding: 'utf8', env: env as NodeJS.ProcessEnv } as const;
    return execFileSync('/usr/sbin/chroot', [root, ...command], options);
  };
  t.match(run('/usr/sbin/nft', '--version'), /^nftables/);
  t.match(run('/usr/sbin/ip', '-V'), /^ip utility/);
  t.match(run(...IMAGE_CONFIG.Entrypoint, '--help'), /^Usage: nodemesh/);
  t.match(run('/app/cni-script/busybox', 'echo', 'static'), /^static/);
});

t.test('the same root gives the same archive, byte by byte', { skip }, async (t) => {
  const archives = ['one.tar', 'two.tar'].map((name) => {
    const out = join(folder, name);
    writeOciArchive({ root: join(root, 'etc'), out, reference: 'a:b', config: IMAGE_CONFIG });
    return readFileSync(out);
  });
  t.ok(archives[0]?.equals(archives[1] ?? Buffer.alloc(0)));
  const list = execFileSync('tar', ['-tf', join(folder, 'one.tar')], { encoding: 'utf8' });
  t.match(list, /^oci-layout\nindex\.json\nblobs\/\n/);
});

t.test('what goes in decides whether it is built again', { skip }, async (t) => {
  const repository = join(folder, 'repository');
  mkdirSync(join(repository, 'src'), { recursive: true });
  writeFileSync(join(repository, 'src/a.ts'), 'a');
  const before = digestInputs(repository);
  t.equal(digestInputs(repository), before);
  writeFileSync(join(repository, 'README.md'), 'not part of it');
  t.equal(digestInputs(repository), before);
  writeFileSync(join(repository, 'src/a.ts'), 'b');
  t.not(digestInputs(repository), before);
});

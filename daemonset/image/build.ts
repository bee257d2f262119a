/**
 * Builds the image without a registry and without a container engine:
 * `node daemonset/image/build.ts [--root DIR] [--out FILE] [--reference NAME] [--list]`.
 *
 * With `--root` it only assembles the root file system (the Dockerfile does that, so both are the same); else it
 * writes an OCI archive that `ctr images import`, `docker load` and `skopeo` read. What would come out the same as
 * last time is not built again: the archive is kept with the digest of everything that goes into it.
 */

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { IMAGE_CONFIG } from './image-config.ts';
import { writeOciArchive } from './oci-archive.ts';
import { assembleRoot, digestInputs, listRoot, type RootEntry } from './root-filesystem.ts';

const REPOSITORY = resolve(import.meta.dirname, '../..');
const MEGABYTE = 1_000_000;

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function formatMb(bytes: number): string {
  return `${(bytes / MEGABYTE).toFixed(1)} MB`;
}

function report(entries: readonly RootEntry[], list: boolean): void {
  const sum = (under: string): number => {
    return entries.reduce(
      (total, entry) => (entry.path.startsWith(under) ? total + entry.bytes : total),
      0,
    );
  };
  if (list) for (const { path, bytes } of entries) print(`${String(bytes).padStart(11)} /${path}`);
  const parts = [
    ['Node', 'usr/local/bin/node'],
    ['our code', 'app/dist'],
    ['its packages', 'app/node_modules'],
    ['nft, ip and libraries', 'usr/'],
    ['CNI script', 'app/cni-script'],
  ] as const;
  for (const [name, under] of parts) {
    const bytes = under === 'usr/' ? sum(under) - sum('usr/local/') : sum(under);
    print(`  ${name.padEnd(22)} ${formatMb(bytes).padStart(9)}`);
  }
  print(`  ${'in all'.padEnd(22)} ${formatMb(sum('')).padStart(9)} in ${entries.length} files`);
}

function main(): void {
  const { values } = parseArgs({
    options: {
      root: { type: 'string' },
      out: { type: 'string', default: join(REPOSITORY, '.cache/image/nodemesh.tar') },
      reference: { type: 'string' },
      list: { type: 'boolean', default: false },
    },
  });
  const { version } = JSON.parse(readFileSync(join(REPOSITORY, 'package.json'), 'utf8')) as {
    version: string;
  };
  if (values.root !== undefined) {
    assembleRoot(REPOSITORY, resolve(values.root));
    report(listRoot(realpathSync(values.root)), values.list);
    return;
  }
  const reference = values.reference ?? `nodemesh:${version}`;
  const out = resolve(values.out);
  const keyFile = `${out}.key`;
  const listFile = `${out}.json`;
  const key = `${digestInputs(REPOSITORY)} ${reference}`;
  const isKept =
    existsSync(out) &&
    existsSync(listFile) &&
    existsSync(keyFile) &&
    readFileSync(keyFile, 'utf8') === key;
  if (!isKept) {
    mkdirSync(dirname(out), { recursive: true });
    const folder = realpathSync(mkdtempSync(join(tmpdir(), 'nodemesh-image-')));
    try {
      const root = join(folder, 'root');
      assembleRoot(REPOSITORY, root);
      writeFileSync(listFile, JSON.stringify(listRoot(root)));
      rmSync(keyFile, { force: true });
      writeOciArchive({ root, out: `${out}.new`, reference, config: IMAGE_CONFIG });
      renameSync(`${out}.new`, out);
      writeFileSync(keyFile, key);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  const entries = JSON.parse(readFileSync(listFile, 'utf8')) as RootEntry[];
  print(`${reference}: ${out}, ${formatMb(statSync(out).size)}${isKept ? ', as before' : ''}`);
  report(entries, values.list);
}

main();

/**
 * A folder as an OCI image archive of one layer. The same folder gives the same bytes: names sorted, owner root, time
 * zero. The layer stays uncompressed, which is what a local import is fastest with.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export interface OciArchiveOptions {
  readonly root: string;
  readonly out: string;
  /** What the image is called once imported, as `NAME:TAG`. */
  readonly reference: string;
  /** The OCI `config` object: entrypoint, environment, user. */
  readonly config: Readonly<Record<string, unknown>>;
}

const TYPE = 'application/vnd.oci.image';
/** Reproducible: no names, no times, no order of the disk. */
const TAR = [
  '--format=posix',
  '--pax-option=delete=atime,delete=ctime',
  '--sort=name',
  '--owner=0',
  '--group=0',
  '--numeric-owner',
  '--mtime=@0',
];
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

function tar(folder: string, out: string, names: readonly string[]): void {
  execFileSync('tar', [...TAR, '-C', folder, '-cf', out, ...names], { stdio: 'inherit' });
}

interface Blob {
  readonly digest: string;
  readonly size: number;
}

export function writeOciArchive(options: OciArchiveOptions): void {
  const { root, out, reference, config } = options;
  // Beside the archive, so that renaming is no copying.
  const layout = mkdtempSync(join(dirname(out), 'layout-'));
  const blobs = join(layout, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const keep = (bytes: Uint8Array): Blob => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(blobs, hex), bytes);
    return { digest: `sha256:${hex}`, size: bytes.length };
  };
  const keepJson = (value: unknown): Blob => keep(Buffer.from(JSON.stringify(value)));
  try {
    const layerFile = join(layout, 'layer.tar');
    tar(root, layerFile, ['.']);
    const layerBytes = readFileSync(layerFile);
    const hex = createHash('sha256').update(layerBytes).digest('hex');
    const layer: Blob = { digest: `sha256:${hex}`, size: layerBytes.length };
    renameSync(layerFile, join(blobs, hex));
    const configBlob = keepJson({
      architecture: ARCHITECTURES[process.arch] ?? process.arch,
      os: 'linux',
      config,
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
      history: [{ created_by: 'daemonset/image/build.ts' }],
    });
    const manifest = keepJson({
      schemaVersion: 2,
      mediaType: `${TYPE}.manifest.v1+json`,
      config: { mediaType: `${TYPE}.config.v1+json`, ...configBlob },
      layers: [{ mediaType: `${TYPE}.layer.v1.tar`, ...layer }],
    });
    const index = {
      schemaVersion: 2,
      mediaType: `${TYPE}.index.v1+json`,
      manifests: [
        {
          mediaType: `${TYPE}.manifest.v1+json`,
          ...manifest,
          annotations: {
            'io.containerd.image.name': reference,
            'org.opencontainers.image.ref.name': reference,
          },
        },
      ],
    };
    writeFileSync(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
    writeFileSync(join(layout, 'index.json'), JSON.stringify(index));
    tar(layout, out, ['oci-layout', 'index.json', 'blobs']);
  } finally {
    rmSync(layout, { recursive: true, force: true });
  }
}

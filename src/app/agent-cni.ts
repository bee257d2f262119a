/** The agent's side of the CNI: the spool that answers the script, and the script itself kept on the node. */

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { startCniInstaller, type CniInstallerOptions } from '../redirect/cni-installer.ts';
import { openCniMarkers, type CniMarkers } from '../redirect/cni-markers.ts';
import type { CniRequest } from '../redirect/cni-request.ts';
import { announceAgent } from '../redirect/presence.ts';
import { openSpool } from '../redirect/spool.ts';
import type { NodeConfig } from './config/settings.ts';

type CniConfig = Pick<
  NodeConfig,
  'runDir' | 'stateDir' | 'cniConfDir' | 'cniBinDir' | 'cniHostBinDir'
>;

/** Where script and agent meet. The host sees the run and the state folder under the same paths as we do. */
function folders({ runDir, stateDir }: CniConfig): {
  readonly spoolDir: string;
  readonly outsideDir: string;
  readonly enrolledDir: string;
} {
  return {
    spoolDir: join(runDir, 'cni'),
    outsideDir: join(runDir, 'cni-outside'),
    enrolledDir: join(stateDir, 'cni/enrolled'),
  };
}

export function openMarkers(
  config: CniConfig,
  clock: Clock,
  logger: Logger,
): { readonly enrolled: CniMarkers; readonly outside: CniMarkers } {
  const { enrolledDir, outsideDir } = folders(config);
  return {
    enrolled: openCniMarkers(enrolledDir, clock, logger),
    outside: openCniMarkers(outsideDir, clock, logger),
  };
}

/** What is shipped lies beside our own code: `src/bin` and `dist/bin` are equally deep. */
function shipped(): Pick<CniInstallerOptions, 'scriptFile' | 'shellFile' | 'version'> {
  const root = join(dirname(process.argv[1] ?? ''), '../..');
  const manifest: unknown = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  if (typeof manifest !== 'object' || manifest === null || !('version' in manifest)) {
    throw new MeshError('MESH_CONFIG_INVALID', `Cannot find our own version in "${root}"`);
  }
  return {
    scriptFile: join(root, 'cni-script/nodemesh-cni'),
    shellFile: join(root, 'cni-script/busybox'),
    version: String(manifest.version),
  };
}

/** Answers the script, and installs it where the configuration says so. Returns what ends both for a successor. */
export function serveCni(
  config: CniConfig,
  clock: Clock,
  logger: Logger,
  handle: (request: CniRequest) => Promise<void>,
): () => void {
  const { spoolDir, outsideDir, enrolledDir } = folders(config);
  const spool = openSpool({ dir: spoolDir, clock, logger, handle });
  const presence = announceAgent(spoolDir, clock, logger);
  const installer =
    config.cniConfDir === ''
      ? undefined
      : startCniInstaller({
          confDir: config.cniConfDir,
          binDir: config.cniBinDir,
          hostBinDir: config.cniHostBinDir,
          ...shipped(),
          spoolDir,
          outsideDir,
          enrolledDir,
          clock,
          logger,
        });
  return () => {
    spool.close();
    presence.stop();
    installer?.close();
  };
}

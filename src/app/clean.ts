/**
 * Composition root of `nodemesh clean`: takes everything of the mesh off this node, then answers readiness until it is
 * ended. `meshctl uninstall` runs it on every node once the node proxies are gone, and waits for it to be ready.
 */

import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { createReadinessServer } from '../admin/readiness-server.ts';
import { createSystemClock } from '../base/clock.ts';
import { unwrap } from '../base/result.ts';
import { openNamespace } from '../linux/namespaces.ts';
import { loadNative } from '../linux/native.ts';
import { cleanNamespaces, namespacePaths } from '../redirect/clean.ts';
import { removeCni } from '../redirect/cni-installer.ts';
import { createLogger } from '../telemetry/logger.ts';
import { createLogWriter } from '../telemetry/log-writer.ts';
import { readCleanConfig } from './config/settings.ts';

const STDOUT = 1;
/** Namespaces whose pods come and go meanwhile are looked at again. */
const ROUNDS = 2;

/** What is in a folder, not the folder: it is a mount. */
function emptyFolder(folder: string): void {
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder))
    rmSync(join(folder, name), { recursive: true, force: true });
}

export async function runClean(): Promise<void> {
  const config = unwrap(readCleanConfig((name) => process.env[name]));
  const clock = createSystemClock();
  const writer = createLogWriter(clock, STDOUT, () => {});
  process.once('exit', () => writer.flushSync());
  const logger = createLogger({ clock, writer, level: 'info', fields: { component: 'clean' } });
  process.on('SIGTERM', () => process.exit(0));
  process.on('SIGINT', () => process.exit(130));
  let blockers: readonly string[] = ['cleaning'];
  createReadinessServer({
    clock,
    logger,
    port: config.readinessPort,
    status: () => ({ blockers }),
  });

  const failures: string[] = [];
  // First what would hold a new pod for an agent that is gone.
  if (config.cniConfDir !== '') {
    try {
      removeCni({ confDir: config.cniConfDir, binDir: config.cniBinDir });
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  const native = loadNative();
  const nodeNamespace = openNamespace(native, config.nodeNamespace);
  const context = { native, clock, logger, nodeNamespace };
  for (let round = 0; round < ROUNDS; round++) {
    const report = await cleanNamespaces(context, namespacePaths());
    logger.info('namespaces are cleaned', { ...report });
    if (round === ROUNDS - 1) failures.push(...report.failures);
  }
  for (const folder of [config.runDir, config.stateDir]) emptyFolder(folder);
  blockers = failures;
  logger.info('this node is clean', { failures });
  await new Promise<never>(() => {});
}

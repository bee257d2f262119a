#!/usr/bin/env node
/** The `nodemesh` program: reads the command, runs its composition root, sets the exit code. */

import { flushCompileCache } from 'node:module';

import { hardenProcess } from '../app/hardening.ts';
import { compactLoadedHeap } from '../app/loaded-heap.ts';
import { MeshError } from '../base/errors.ts';

const EXIT_USAGE = 64;

/**
 * Keeps what was compiled where NODE_COMPILE_CACHE says, if it does: from TypeScript sources a role loads in 0.2 s
 * of CPU instead of 0.45 s. Now, since Node does it only on a clean exit and ours are often killed.
 */
const loaded = <T>(role: T): T => {
  flushCompileCache();
  compactLoadedHeap();
  return role;
};

/** Roles are loaded when asked for: the supervisor must not carry what the agent needs. */
const ROLES = {
  node: async () => loaded(await import('../app/node.ts')).runNode(),
  waypoint: async () => loaded(await import('../app/waypoint.ts')).runWaypoint(),
  controller: async () => loaded(await import('../app/controller.ts')).runController(),
  agent: async () => loaded(await import('../app/agent.ts')).runAgent(),
  clean: async () => loaded(await import('../app/clean.ts')).runClean(),
  worker: async () => loaded(await import('../app/worker.ts')).runWorker(),
} as const;

/** A daemon: closed to Node's own doors before anything of it is loaded. */
async function runRole(name: keyof typeof ROLES): Promise<void> {
  hardenProcess();
  await ROLES[name]();
}

function isRole(name: string): name is keyof typeof ROLES {
  return Object.hasOwn(ROLES, name);
}

/** With options, help and mistakes; its library is 4 MB that a daemon need not carry. Returns the exit code. */
async function runCommandLine(): Promise<number> {
  const { Command, CommanderError } = await import('commander');
  let exitCode = 0;
  const program = new Command('nodemesh')
    .description('A sidecarless service mesh for Kubernetes')
    .exitOverride()
    .showHelpAfterError();
  program
    .command('node')
    .description('run the proxy of this node')
    .action(() => runRole('node'));
  program
    .command('waypoint')
    .description('run the layer 7 proxy of a namespace, service or mesh')
    .action(() => runRole('waypoint'));
  program
    .command('controller')
    .description('run the controller on a folder of manifests')
    .action(() => runRole('controller'));
  program
    .command('demo')
    .description('show the mesh on this machine: two nodes, five pods, real tunnels')
    .option('--once', 'run the story, clean up and exit 0 or 1')
    .action(async (options: { readonly once?: boolean }) => {
      const { runDemo } = loaded(await import('../app/demo.ts'));
      exitCode = await runDemo({ once: options.once === true });
    });
  program
    .command('clean')
    .description('take everything of the mesh off this node, as meshctl uninstall does')
    .action(ROLES.clean);
  program
    .command('admin <method> <path...>')
    .description(
      'ask the processes of this pod on their admin sockets, e.g. admin GET /config_dump',
    )
    .action(async (method: string, paths: readonly string[]) => {
      const { runAdmin } = loaded(await import('../app/admin.ts'));
      exitCode = await runAdmin(method === 'POST' ? 'POST' : 'GET', paths);
    });
  try {
    await program.parseAsync();
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? 0 : EXIT_USAGE;
  }
  return exitCode;
}

try {
  const [name = '', ...rest] = process.argv.slice(2);
  if (rest.length === 0 && isRole(name)) await runRole(name);
  else process.exitCode = await runCommandLine();
} catch (error) {
  if (!(error instanceof MeshError)) throw error;
  // It says what is wrong and why; a stack would only hide that.
  process.stderr.write(`nodemesh: ${error.message}\n`);
  process.exit(1);
}

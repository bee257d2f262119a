/**
 * The tree of meshctl's commands: names, options and help. What a command does is loaded when it is asked for, so
 * that help and mistakes are answered in no time.
 */

import { join } from 'node:path';

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';

import { MeshError, type ErrorCode } from '../base/errors.ts';
import type { Cluster } from './cluster.ts';
import { EXIT, type CommandIo, type ExitCode } from './io.ts';
import {
  LIST_FORMATS,
  OUTPUT_FORMATS,
  type ListFormat,
  type OutputFormat,
} from './output-format.ts';

export interface ProgramOptions {
  readonly io: CommandIo;
  /** Of this meshctl. */
  readonly version: string;
  /** Default: the API server that the kubeconfig names. */
  readonly connect?: (flags: ClusterFlags) => Promise<Cluster>;
}

/** Flags that every command takes. */
export interface ClusterFlags {
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly namespace?: string;
  readonly allNamespaces?: boolean;
  /** Whose rights count instead of one's own. */
  readonly as?: string;
  readonly asGroup: readonly string[];
  readonly requestTimeout: number;
}

interface ListFlags {
  readonly output: ListFormat;
  readonly headers: boolean;
  readonly selector?: string;
}

interface WaitFlags {
  readonly wait: boolean;
  readonly timeout: number;
}

/** What a command may end with, and how it reaches the cluster. */
interface Context {
  readonly options: ProgramOptions;
  readonly io: CommandIo;
  readonly flags: () => ClusterFlags;
  readonly connect: () => Promise<Cluster>;
  readonly end: (code: ExitCode) => void;
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
const TIMEOUT = '5m';

/** `30s`, `5m`: what kubectl takes, without fractions. */
function parseDuration(text: string): number {
  const [, digits, unit = ''] = /^(\d{1,9})(ms|s|m|h)$/.exec(text) ?? [];
  if (digits === undefined) throw new InvalidArgumentError('Write a duration such as 30s or 5m.');
  return Number(digits) * (UNITS[unit] ?? 1);
}

function collect(value: string, before: readonly string[]): string[] {
  return [...before, value];
}

/** The first of the choices is the default. */
function outputOption(...choices: readonly string[]): Option {
  return new Option('-o, --output <format>', 'format').choices(choices).default(choices[0]);
}

function addWait(command: Command, wait: boolean): Command {
  const text = wait ? 'do not wait until it is so' : 'wait until all of it is ready';
  return command
    .option(wait ? '--no-wait' : '--wait', text)
    .addOption(
      new Option('--timeout <duration>', 'how long to wait')
        .argParser(parseDuration)
        .default(parseDuration(TIMEOUT), TIMEOUT),
    );
}

/** `labels`: whose the selector means. */
function addList(command: Command, labels: string): Command {
  return command
    .addOption(outputOption(...LIST_FORMATS))
    .option('--no-headers', 'rows only')
    .option('-l, --selector <labels>', labels);
}

interface InstallFlags extends WaitFlags {
  readonly values: readonly string[];
  readonly set: readonly string[];
  readonly ha?: boolean;
  readonly crds?: boolean;
  readonly skipCrds?: boolean;
  readonly apply?: boolean;
  readonly output: 'yaml' | 'json';
}

function addInstall(program: Command, { options, io, connect, end }: Context): void {
  const command = program
    .command('install')
    .summary('print, or apply, what makes up the mesh')
    .description(
      'Prints everything that makes up the mesh; nothing is changed unless --apply is given.\nTo install: meshctl install | kubectl apply -f -',
    )
    .option('-f, --values <file>', 'values, as for the Helm chart; may be given again', collect, [])
    .option('--set <name=value>', 'one value; may be given again', collect, [])
    .option('--ha', 'two controllers instead of one')
    .addOption(new Option('--crds', 'only the namespace and the CRDs').conflicts('skipCrds'))
    .option('--skip-crds', 'all but the namespace and the CRDs')
    .option('--apply', 'apply it instead of printing it')
    .addOption(outputOption('yaml', 'json'));
  addWait(command, false).action(async (flags: InstallFlags) => {
    const { install } = await import('./commands/install.ts');
    const { values: files, set: settings, output, timeout: timeoutMs } = flags;
    const part = flags.crds === true ? 'base' : flags.skipCrds === true ? 'mesh' : 'all';
    const apply = flags.apply === true ? { wait: flags.wait, timeoutMs } : undefined;
    const { version } = options;
    const args = { files, settings, ha: flags.ha === true, part, output, version, apply } as const;
    end(await install(args, io, connect));
  });
}

interface UninstallFlags extends WaitFlags {
  readonly force?: boolean;
  readonly purgeCrds?: boolean;
  readonly dryRun?: boolean;
}

function addUninstall(program: Command, { options, io, connect, end }: Context): void {
  const command = program
    .command('uninstall')
    .summary('take the mesh away and leave nothing')
    .description(
      'Takes the mesh away: from every node its rules, CNI entry and state, then its objects.\nRefuses while namespaces are enrolled.',
    )
    .option('--force', 'take enrolled namespaces out of the mesh first')
    .option('--purge-crds', 'the CRDs, too, and with them every policy')
    .option('--dry-run', 'only say what would be deleted');
  addWait(command, true).action(async (flags: UninstallFlags) => {
    const { uninstall } = await import('./commands/uninstall.ts');
    const { force = false, purgeCrds = false, dryRun = false, timeout: timeoutMs } = flags;
    const args = { force, purgeCrds, dryRun, timeoutMs, version: options.version };
    end(await uninstall(args, io, await connect()));
  });
}

const CHECK_FORMATS = ['table', 'short', 'json', 'yaml'] as const;

interface CheckFlags {
  readonly pre?: boolean;
  readonly output: (typeof CHECK_FORMATS)[number];
}

function addHealth(program: Command, { io, connect, end }: Context): void {
  program
    .command('check')
    .summary('is it me or the mesh')
    .description('Checks the mesh, or with --pre whether it will work in this cluster.')
    .option('--pre', 'before anything is installed')
    .addOption(outputOption(...CHECK_FORMATS))
    .action(async (flags: CheckFlags) => {
      const { check } = await import('./commands/check.ts');
      end(await check({ pre: flags.pre === true, output: flags.output }, io, await connect()));
    });
  program
    .command('status')
    .summary('the mesh on one screen')
    .description('Shows controller, node proxies, enrolment, certificates and the last warnings.')
    .addOption(outputOption(...OUTPUT_FORMATS))
    .action(async (flags: { readonly output: OutputFormat }) => {
      const { status } = await import('./commands/status.ts');
      end(await status(flags, io, await connect()));
    });
}

interface NamespaceFlags extends WaitFlags {
  readonly dryRun?: boolean;
}

function addNamespace(program: Command, { io, connect, end }: Context): void {
  const group = program
    .command('namespace')
    .alias('ns')
    .description('who is in the mesh: add, remove, list');
  const change = (name: 'add' | 'remove', summary: string): void => {
    const command = group
      .command(`${name} <namespace...>`)
      .summary(summary)
      .description(`${summary}; no pod is restarted and no open connection is cut`)
      .option('--dry-run', 'only say what would be done');
    addWait(command, true).action(async (names: readonly string[], flags: NamespaceFlags) => {
      const { namespaceAdd, namespaceRemove } = await import('./commands/namespace.ts');
      const { wait, timeout: timeoutMs, dryRun = false } = flags;
      const act = name === 'add' ? namespaceAdd : namespaceRemove;
      end(await act({ names, wait, timeoutMs, dryRun }, io, await connect()));
    });
  };
  change('add', 'put namespaces into the mesh');
  change('remove', 'take namespaces out of the mesh');
  addList(
    group.command('list').description('namespaces in the mesh'),
    'namespaces with these labels',
  ).action(async (flags: ListFlags) => {
    const { namespaceList } = await import('./commands/namespace.ts');
    end(await namespaceList(flags, io, await connect()));
  });
}

function addLists(program: Command, { io, flags: clusterFlags, connect, end }: Context): void {
  const proxy = program.command('proxy').description('node proxies');
  addList(
    proxy.command('list').description('every node and its proxy'),
    'nodes with these labels',
  ).action(async (flags: ListFlags) => {
    const { proxyList } = await import('./commands/proxy-list.ts');
    end(await proxyList(flags, io, await connect()));
  });
  const workload = program.command('workload').alias('wl').description('pods and the mesh');
  addList(
    workload.command('list').description('pods of enrolled namespaces'),
    'pods with these labels',
  ).action(async (flags: ListFlags) => {
    const { workloadList } = await import('./commands/workload-list.ts');
    // All that is enrolled, unless one namespace is asked for: what is missing must not hide.
    const { namespace, allNamespaces } = clusterFlags();
    const chosen = allNamespaces === true ? undefined : namespace;
    end(await workloadList({ ...flags, namespace: chosen }, io, await connect()));
  });
}

interface WaypointFlags extends WaitFlags {
  readonly for: (typeof PURPOSES)[number];
  readonly allNamespacesMayUse?: boolean;
  readonly enroll: boolean;
}

const PURPOSES = ['service', 'workload', 'all'] as const;
const WAYPOINT_NAME = 'waypoint';

function addWaypoint(program: Command, { io, flags: clusterFlags, connect, end }: Context): void {
  const group = program
    .command('waypoint')
    .alias('wp')
    .description('L7 for a namespace: routing, retries, policy on requests');
  const describe = (name: string, summary: string): Command =>
    group
      .command(`${name} [name]`)
      .summary(summary)
      .description(`${summary}; its name is "${WAYPOINT_NAME}" unless given`)
      .addOption(
        new Option('--for <what>', 'what goes through it').choices(PURPOSES).default(PURPOSES[0]),
      )
      .option('--all-namespaces-may-use', 'other namespaces may name it, too');
  const argsOf = (name: string | undefined, flags: WaypointFlags, namespace: string) => ({
    name: name ?? WAYPOINT_NAME,
    namespace,
    purpose: flags.for,
    from: flags.allNamespacesMayUse === true ? ('All' as const) : ('Same' as const),
  });
  describe('generate', 'print the Gateway that asks for a waypoint').action(
    async (name: string | undefined, flags: WaypointFlags) => {
      const { waypointGenerate } = await import('./commands/waypoint.ts');
      const { namespace = 'default' } = clusterFlags();
      end(waypointGenerate(argsOf(name, flags, namespace), io));
    },
  );
  const apply = describe(
    'apply',
    'deploy a waypoint and, once it serves, lead the namespace through it',
  ).option('--no-enroll', 'do not lead the namespace through it');
  addWait(apply, true).action(async (name: string | undefined, flags: WaypointFlags) => {
    const { waypointApply } = await import('./commands/waypoint.ts');
    const cluster = await connect();
    const { namespace = cluster.namespace } = clusterFlags();
    const { enroll, wait, timeout: timeoutMs } = flags;
    const args = { ...argsOf(name, flags, namespace), enroll, wait, timeoutMs };
    end(await waypointApply(args, io, cluster));
  });
  group
    .command('delete [name]')
    .description('lead the namespace past its waypoint, then delete it')
    .option('--force', 'although other namespaces go through it')
    .action(async (name: string | undefined, { force = false }: { readonly force?: boolean }) => {
      const { waypointDelete } = await import('./commands/waypoint.ts');
      const cluster = await connect();
      const { namespace = cluster.namespace } = clusterFlags();
      end(await waypointDelete({ name: name ?? WAYPOINT_NAME, namespace, force }, io, cluster));
    });
  addList(
    group.command('list').description('waypoints, and who goes through them'),
    'Gateways with these labels',
  ).action(async (flags: ListFlags) => {
    const { waypointList } = await import('./commands/waypoint.ts');
    const cluster = await connect();
    const { namespace = cluster.namespace, allNamespaces } = clusterFlags();
    const chosen = allNamespaces === true ? undefined : namespace;
    end(await waypointList({ ...flags, namespace: chosen }, io, cluster));
  });
  group
    .command('status [name]')
    .description('one waypoint: its state, its processes, who goes through it')
    .addOption(outputOption(...OUTPUT_FORMATS))
    .action(async (name: string | undefined, { output }: { readonly output: OutputFormat }) => {
      const { waypointStatus } = await import('./commands/waypoint.ts');
      const cluster = await connect();
      const { namespace = cluster.namespace } = clusterFlags();
      end(await waypointStatus({ name: name ?? WAYPOINT_NAME, namespace, output }, io, cluster));
    });
}

function addVersion(program: Command, { options, io, connect, end }: Context): void {
  program
    .command('version')
    .description('versions of meshctl, controller and node proxies')
    .option('--client', 'only of meshctl')
    .addOption(outputOption(...OUTPUT_FORMATS))
    .action(async (flags: { readonly client?: boolean; readonly output: OutputFormat }) => {
      const { version } = await import('./commands/version.ts');
      const { output, client = false } = flags;
      end(await version({ client: options.version, clientOnly: client, output }, io, connect));
    });
}

function addClusterFlags(program: Command): void {
  program
    .option('--kubeconfig <file>', 'default: KUBECONFIG, then ~/.kube/config')
    .option('--context <name>', 'context of the kubeconfig')
    .option('-n, --namespace <name>', 'only this namespace')
    .option('-A, --all-namespaces', 'all namespaces')
    .option('--as <user>', 'with the rights of this user, as kubectl --as')
    .option('--as-group <group>', 'and of this group; may be given again', collect, [])
    .addOption(
      new Option('--request-timeout <duration>', 'for each answer of the API server')
        .argParser(parseDuration)
        .default(15_000, '15s'),
    );
}

async function connectDefault(flags: ClusterFlags, io: CommandIo): Promise<Cluster> {
  const { connectCluster } = await import('./api-cluster.ts');
  const home = join(io.env('HOME') ?? '/', '.kube/config');
  const listed =
    io
      .env('KUBECONFIG')
      ?.split(':')
      .filter((path) => path !== '') ?? [];
  const kubeconfigs = flags.kubeconfig === undefined ? listed : [flags.kubeconfig];
  const { as: user, asGroup: groups } = flags;
  return connectCluster({
    kubeconfigs: kubeconfigs.length === 0 ? [home] : kubeconfigs,
    context: flags.context,
    impersonate: user === undefined ? undefined : { user, groups },
    requestTimeoutMs: flags.requestTimeout,
    signal: io.signal,
  });
}

/** What to do next about an error that a command could not go on from. */
const HINTS: ReadonlyMap<ErrorCode, string> = new Map([
  [
    'MESH_API_UNREACHABLE',
    'kubectl cluster-info shows whether the API server answers; see --context and --kubeconfig',
  ],
  ['MESH_API_REFUSED', 'kubectl auth can-i --list shows what you may do'],
  ['MESH_CONFIG_INVALID', 'set KUBECONFIG, or give --kubeconfig FILE'],
]);

function explain(error: MeshError, io: CommandIo): ExitCode {
  io.err(`error: ${error.message}\n`);
  const hint = HINTS.get(error.code);
  if (hint !== undefined) io.err(`try:   ${hint}\n`);
  return error.code === 'MESH_USAGE' ? EXIT.usage : EXIT.unknown;
}

/** Runs one command line (without the program's name) and returns what to exit with. Never throws for a mistake. */
export async function runProgram(
  args: readonly string[],
  options: ProgramOptions,
): Promise<ExitCode> {
  const { io } = options;
  let exitCode: ExitCode = EXIT.good;
  const program = new Command('meshctl')
    .description('Installs, inspects and explains a nodemesh')
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.out(text), writeErr: (text) => io.err(text) })
    .showHelpAfterError('(add --help for what is possible)');
  const flags = (): ClusterFlags => program.opts<ClusterFlags & Record<string, unknown>>();
  const connect = async (): Promise<Cluster> => {
    const given = flags();
    if (given.as === undefined && given.asGroup.length > 0) {
      const message = 'Cannot take the rights of a group alone: --as-group needs --as';
      throw new MeshError('MESH_USAGE', message);
    }
    return options.connect === undefined ? connectDefault(given, io) : options.connect(given);
  };
  const end = (code: ExitCode): void => {
    exitCode = code;
  };
  const context: Context = { options, io, flags, connect, end };
  addClusterFlags(program);
  const groups = [
    addInstall,
    addUninstall,
    addHealth,
    addNamespace,
    addLists,
    addWaypoint,
    addVersion,
  ];
  for (const add of groups) add(program, context);
  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.good : EXIT.usage;
    if (!(error instanceof MeshError)) throw error;
    // Whatever failed then, failed because of that.
    return io.signal.aborted ? EXIT.interrupted : explain(error, io);
  }
  return io.signal.aborted ? EXIT.interrupted : exitCode;
}

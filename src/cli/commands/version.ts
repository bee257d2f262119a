/** `meshctl version`: of this program, the controller and the node proxies. */

import type { Cluster } from '../cluster.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import { isStructured, type OutputFormat } from '../output-format.ts';
import { writeStructured } from '../report.ts';
import { surveyMesh } from '../survey/survey.ts';
import { formatTable } from '../table.ts';

export interface VersionArgs {
  readonly client: string;
  /** Only that of this program; needs no cluster. */
  readonly clientOnly: boolean;
  readonly output: OutputFormat;
}

export async function version(
  args: VersionArgs,
  io: CommandIo,
  connect: () => Promise<Cluster>,
): Promise<ExitCode> {
  const { client, clientOnly, output } = args;
  if (clientOnly) {
    if (isStructured(output)) writeStructured(io, output, 'Version', { client });
    else io.out(`${client}\n`);
    return EXIT.good;
  }
  const { controller, nodeProxies } = await surveyMesh(await connect(), io.now());
  const counts = new Map<string, number>();
  for (const proxy of nodeProxies.proxies) {
    const name = proxy.version ?? 'unknown';
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  if (isStructured(output)) {
    const fields = {
      client,
      controller: controller.version,
      nodeProxies: Object.fromEntries(counts),
    };
    writeStructured(io, output, 'Version', fields);
    return EXIT.good;
  }
  const proxies = [...counts].map(([name, count]) => `${name} (${count})`).join(', ');
  io.out(
    formatTable(
      ['', ''],
      [
        ['meshctl', client],
        ['controller', controller.version ?? 'not installed'],
        ['node proxies', proxies === '' ? 'not installed' : proxies],
      ],
      { headers: false },
    ),
  );
  return EXIT.good;
}

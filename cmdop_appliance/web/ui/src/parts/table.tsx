import type { ComponentChildren } from "preact";

export interface Column<Row> {
  /** Its head; on a phone, where rows are cards, the label before the value. */
  name: string;
  show: (row: Row) => ComponentChildren;
  class?: string;
}

/** Rows under heads; cards on a phone. */
export function Table<Row>({ label, columns, rows, id }: {
  label: string;
  columns: Column<Row>[];
  rows: readonly Row[];
  id: (row: Row) => string;
}) {
  return (
    <div class="table-box">
      <table aria-label={label}>
        <thead>
          <tr>{columns.map((column) => <th key={column.name} class={column.class} scope="col">{column.name}</th>)}</tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)}>
              {columns.map((column) => (
                <td key={column.name} class={column.class} data-label={column.name}>{column.show(row)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

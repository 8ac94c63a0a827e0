/**
 * A shell with two children and a pipe between them: one writes a number every 20 ms into the pipe, the other reads
 * it and appends it to a file in the writable layer. The shell itself holds a file open that has been deleted.
 */
export const TREE = `
echo kept > /tmp/deleted; exec 7<>/tmp/deleted; rm /tmp/deleted
mkdir -p /var/data; echo first > /var/data/removed-later
( n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done ) | ( exec 8>>/var/data/numbers; while read n; do echo $n >&8; [ $((n % 25)) = 0 ] && echo "line $n"; done ) &
echo $$ > /var/data/shell; wait`;

#!/usr/bin/env bash
# Closes Ray's ports on every address of this machine but loopback and the one that the cluster uses: Ray 2.60 listens on
# all of them, and has no setting against it.
#
#   fence.sh ADDRESS    put it up, or anew
#   fence.sh down       take it away
#
# Needs nft, and root or a sudo that asks for no password. Without them it says so, and changes nothing.
set -euo pipefail

# What docker/ray-onprem.yaml has Ray listen on.
PORTS="6379, 10001, 20000-21099"

run=()
[ "$(id -u)" -eq 0 ] || run=(sudo -n)
if ! PATH=$PATH:/usr/sbin command -v nft > /dev/null || ! "${run[@]}" env PATH="$PATH:/usr/sbin" nft list tables > /dev/null 2>&1; then
  echo "no fence: nft is not here, or may not be used without a password"
  exit 0
fi

if [ "$1" = down ]; then
  echo "table inet sar_search; delete table inet sar_search"
else
  case $1 in *:*) kind=ip6 ;; *) kind=ip ;; esac
  cat << RULES
table inet sar_search
delete table inet sar_search
table inet sar_search {
  chain in {
    type filter hook input priority 0; policy accept;
    iif lo accept
    $kind daddr $1 accept
    tcp dport { $PORTS } drop
  }
}
RULES
fi | "${run[@]}" env PATH="$PATH:/usr/sbin" nft -f -

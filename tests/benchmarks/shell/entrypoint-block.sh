#!/bin/bash
# The shell block that manifests carry in front of the server: active RoCE HCAs, and the one index at which
# most of them have a RoCE v2 GID of IPv4. One process or more for each file.
declare -A count
hcas=()
for path in /sys/class/infiniband/*; do
  device=$(basename "$path")
  for port in "$path"/ports/*; do
    grep -q ACTIVE "$port/state" || continue
    grep -q Ethernet "$port/link_layer" || continue
    found=""
    for file in "$port"/gids/*; do
      index=$(basename "$file")
      gid=$(cat "$file" 2>/dev/null)
      echo "$gid" | grep -q "0000:0000:0000:0000:0000:ffff:" || continue
      cat "$port/gid_attrs/types/$index" 2>/dev/null | grep -q "RoCE v2" || continue
      found=yes
      count[$index]=$((${count[$index]:-0} + 1))
    done
    [ -n "$found" ] && hcas+=("$device")
  done
done
best=$(for index in "${!count[@]}"; do echo "${count[$index]} $index"; done | sort -k1,1nr -k2,2n | head -n 1 | cut -d' ' -f2)
export NCCL_IB_HCA=$(IFS=,; echo "${hcas[*]}")
export NCCL_IB_GID_INDEX=$best
echo "NCCL_IB_HCA=$NCCL_IB_HCA NCCL_IB_GID_INDEX=$NCCL_IB_GID_INDEX"

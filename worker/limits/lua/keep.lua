-- keep(constants, group, grant ...) -> how many still had their slot
-- s zset, g hash: both live as long as their youngest slot.
local kept = 0
for i = 3, #ARGV do
  kept = kept + redis.call('ZADD', S, 'XX', 'CH', int(now + C.slot_ttl_ms), ARGV[i])
end
redis.call('PEXPIRE', S, C.slot_ttl_ms)
redis.call('PEXPIRE', G, C.slot_ttl_ms)
return kept

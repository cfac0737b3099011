-- beat(lease_ms, (sid, step, fence) ...) -> positions (from 0) of leases that are lost or must stop
local lost = {}
for i = 2, #ARGV, 3 do
  local sid, step, fence = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local row = row_key(sid, step)
  if holds(sid, step, fence) and redis.call('HGET', row, 'stop') ~= '1' then
    redis.call('HSET', row, 'lease_until', int(now + tonumber(ARGV[1])))
    due_at(sid, step, now + tonumber(ARGV[1]))
  else
    lost[#lost + 1] = (i - 2) / 3
  end
end
return lost

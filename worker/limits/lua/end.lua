-- end(constants, group, grant, outcome, input, output, latency_ms, pause_ms, stops, said,
--     told requests, told input, told output, requests, input, output, watches_latency) -> 1 | 0 (no such call)
-- -1 for tokens that nobody knows; 0 for limits that nobody told. Said twice it changes nothing more.
local grant, outcome, said = ARGV[3], ARGV[4], ARGV[10]
local configured = {ARGV[14], ARGV[15], ARGV[16]}
load()
-- Give a request back that was never sent, as far as nobody has got its place meanwhile.
local function give_back(began)
  redis.call('ZREM', R, grant)
  local limit = limit_of(1, configured)
  if limit == 0 or began < now - C.burst_ms then return end
  local level = level_of(1, limit)
  local most, since = burst(limit), redis.call('ZREVRANGEBYSCORE', R, '+inf', int(began), 'WITHSCORES')
  for i = 2, #since, 2 do
    most = math.min(most, burst(limit) + limit * (now - tonumber(since[i])) - i / 2 * C.unit)
  end
  put('level.' .. NAMES[1], level + math.max(0, math.min(C.unit, most - level)))
  put('at.' .. NAMES[1], now)
end
if ARGV[9] == '1' then redis.call('SET', STOP, said, 'NX') end
if ARGV[11] ~= '0' or ARGV[12] ~= '0' or ARGV[13] ~= '0' then
  for i = 1, #NAMES do put('told.' .. NAMES[i], ARGV[10 + i]) end
end
local pause = tonumber(ARGV[8])
if pause > 0 and now + pause > known('pause_until') then
  put('pause_until', now + pause)
  put('said', said)
end
local under_way = redis.call('ZCARD', S)
redis.call('ZREM', S, grant)
local taken = redis.call('HGET', G, grant)
redis.call('HDEL', G, grant)
if next(b) then keep_group() end
if not taken then return 0 end

local began, input, output = string.match(taken, '^(%d+) (%d+) (%d+)$')
began, input, output = tonumber(began), tonumber(input), tonumber(output)
if outcome == 'unsent' then
  charge(configured, {0, -input, -output})
  give_back(began)
else
  local used_input, used_output = tonumber(ARGV[5]), tonumber(ARGV[6])
  if used_input < 0 then used_input = input end
  if used_output < 0 then used_output = output end
  charge(configured, {0, used_input - input, used_output - output})
end
if outcome == 'answered' and tonumber(ARGV[6]) >= 0 then
  put('usual_output', smoothed(known('usual_output'), tonumber(ARGV[6])))
end

local function cut(share, of)
  if began <= known('cut') then return end
  local used = under_way * C.milli
  local milli = known('milli') == 0 and used or math.min(known('milli'), used)
  milli = math.max(math.floor(milli * share / of), C.milli)
  put('milli', milli)
  put('aim', milli)
  put('cut', now)
end
if outcome == 'overloaded' then cut(1, 2) end
if outcome == 'answered' then
  local latency = tonumber(ARGV[7])
  if latency > 0 then
    local average, best = smoothed(known('latency'), latency), known('best')
    if best == 0 or average < best then
      best = average
    else
      best = best + math.floor((average - best) / C.drift)
    end
    put('latency', average)
    put('best', best)
  end
  local milli, aim = known('milli'), known('aim')
  if ARGV[17] == '1' and known('latency') > C.latency_factor * math.max(known('best'), C.latency_floor_ms) then
    cut(9, 10)
  elseif milli > 0 and under_way * 2 * C.milli >= milli then
    local slow_start = aim == 0 or milli < aim
    local more = slow_start and C.milli or math.max(1, math.floor(C.milli * C.milli / milli))
    put('milli', math.min(milli + more, C.most_slots * C.milli))
  end
end
return 1
